/** The API's reference: what /api/openapi.json says, to read. */

import { h, replace, setText } from './dom.js';

const TEXT = {
  about: 'As OpenAPI 3.1: ',
  filter: 'Find a call',
  found: (count) => `Calls found: ${count}`,
  loading: 'Loading…',
  failed: (why) => `The description could not be loaded (${why}).`,
  retry: 'Try again',
  login: 'Log in on the dashboard first, then come back.',
  who: { admin: 'Changes something: needs a token of the role admin.', reader: 'Needs a token of either role.' },
  everyone: 'Open to everyone.',
  path: 'In the path',
  query: 'In the query',
  body: 'Body',
  answers: 'Answers',
  refusals: 'Refusals',
  needed: 'needed',
  oneOf: 'one of',
  anyOf: 'any of',
  none: 'no body',
  others: 'any other key',
};
const METHODS = ['get', 'post', 'put', 'delete'];
const LIMITS = { minimum: '≥', maximum: '≤', minLength: 'length ≥', maxLength: 'length ≤', maxProperties: 'keys ≤', pattern: 'like' };

let components = {};

function resolve(schema) {
  let found = schema;
  while (found?.$ref) found = { ...at(found.$ref), ...found, $ref: at(found.$ref).$ref };
  return found;
}

function at(ref) {
  const [, , kind, ...name] = ref.split('/');
  return components[kind][name.join('/')];
}

/** What a schema is, in one line. */
function phrase(given) {
  const schema = resolve(given);
  if (schema.allOf) return phrase(schema.allOf[0]);
  const parts = schema.anyOf || schema.oneOf;
  if (!schema.type && parts) return parts.map(phrase).join(' or ');
  let kind = [schema.type ?? 'anything'].flat().join(' or ');
  if (schema.items) kind += ` of ${phrase(schema.items)}`;
  if (schema.format) kind += ` (${schema.format})`;
  return kind;
}

/** What else holds for it: words that there are, limits, default. */
function limits(schema) {
  const said = Object.entries(LIMITS).filter(([key]) => key in schema && String(schema[key]).length < 30).map(([key, sign]) => `${sign} ${schema[key]}`);
  const words = 'const' in schema ? [schema.const] : schema.enum;
  if (words) said.unshift(`${TEXT.oneOf} ${words.map((word) => JSON.stringify(word)).join(', ')}`);
  if ('default' in schema) said.push(`by default ${JSON.stringify(schema.default)}`);
  return said.join('; ');
}

/** Text with `code` in it. */
function prose(text) {
  return String(text).split('`').map((part, index) => (index % 2 ? h('code', null, part) : part));
}

/** One key and what it may be; what it holds is made when it is opened. */
function keyRow(name, given, needed) {
  const schema = resolve(given);
  return [
    h('dt', null, h('code', null, name), ' ', h('span', { class: 'muted' }, phrase(schema)), needed && h('span', { class: 'needed' }, ` ${TEXT.needed}`)),
    h('dd', null, schema.description && h('div', null, prose(schema.description)), limits(schema) && h('div', null, limits(schema)), inside(schema, name)),
  ];
}

/** The keys of an object, or of what a list or a choice holds; nothing for a plain value. */
function inside(given, label) {
  const schema = resolve(given);
  if (schema.items) return inside(schema.items, label);
  const choices = (schema.oneOf ?? schema.anyOf ?? schema.allOf ?? []).filter((one) => resolve(one).properties);
  if (!schema.properties && choices.length) return choices.map((one) => inside(one, one.$ref?.split('/').pop() ?? label));
  const others = typeof schema.additionalProperties === 'object' && schema.additionalProperties;
  if (!schema.properties && !(others && resolve(others).properties)) return null;
  const details = h('details', null, h('summary', null, h('code', null, label)));
  details.addEventListener('toggle', () => fill(details, schema, others), { once: true });
  return details;
}

function fill(details, schema, others) {
  const needed = schema.required ?? [];
  const rows = Object.entries(schema.properties ?? {}).map(([name, inner]) => keyRow(name, inner, needed.includes(name)));
  if (others) rows.push(keyRow(TEXT.others, others, false));
  details.append(h('dl', null, rows));
}

function parameters(operation, where) {
  const all = (operation.parameters ?? []).filter((one) => one.in === where);
  if (!all.length) return null;
  const rows = all.map((one) => keyRow(one.name, { ...one.schema, description: one.description }, one.required));
  return [h('h4', null, TEXT[where]), h('dl', null, rows)];
}

function content(about) {
  return Object.entries(about.content ?? {}).map(([type, { schema }]) => [h('div', null, h('code', null, type)), schema && inside(schema, phrase(schema))]);
}

function answers(operation) {
  const rows = (refusals) => Object.entries(operation.responses).filter(([status]) => status >= 400 === refusals).map(([status, given]) => {
    const about = resolve(given);
    const [title, ...lines] = about.description.split('\n').filter(Boolean);
    return [
      h('dt', null, h('code', null, status), ` ${title}`),
      h('dd', null, lines.map((line) => h('div', null, prose(line.replace(/^- /, '')))), status < 400 && content(about)),
    ];
  });
  return [h('h4', null, TEXT.answers), h('dl', null, rows(false)), h('details', null, h('summary', null, TEXT.refusals), h('dl', null, rows(true)))];
}

function call(path, method, operation) {
  const roles = operation.security[0]?.token;
  return h('section', { id: operation.operationId, class: 'card', 'aria-labelledby': `${operation.operationId}-name` },
    h('h3', { id: `${operation.operationId}-name` }, badge(method), path),
    h('p', { class: 'lines' }, prose(operation.description)),
    h('p', { class: 'muted' }, roles ? TEXT.who[roles[0]] : TEXT.everyone),
    parameters(operation, 'path'),
    parameters(operation, 'query'),
    operation.requestBody && [h('h4', null, TEXT.body), content(operation.requestBody)],
    answers(operation));
}

function badge(method) {
  return h('span', { class: method === 'get' ? 'method' : 'method change' }, method.toUpperCase());
}

function show(document_) {
  components = document_.components;
  const tags = new Map();
  for (const [path, item] of Object.entries(document_.paths)) {
    for (const method of METHODS.filter((one) => item[one])) {
      const operation = item[method];
      const section = call(path, method, operation);
      const link = h('li', null, h('a', { href: `#${operation.operationId}` }, badge(method), path));
      const words = `${method} ${path} ${operation.summary} ${operation.description}`.toLowerCase();
      const tag = operation.tags[0];
      if (!tags.has(tag)) tags.set(tag, []);
      tags.get(tag).push({ section, link, words });
    }
  }
  const all = [...tags.values()].flat();
  const groups = [...tags].map(([tag, calls]) => ({ calls, node: h('div', null, h('h2', null, tag), h('ul', null, calls.map((one) => one.link))) }));
  const search = h('input', { type: 'search', id: 'filter', oninput: () => {
    const wanted = search.value.trim().toLowerCase();
    for (const one of all) one.section.hidden = one.link.hidden = !one.words.includes(wanted);
    for (const group of groups) group.node.hidden = group.calls.every((one) => one.link.hidden);
    setText(document.getElementById('found'), TEXT.found(all.filter((one) => !one.link.hidden).length));
  } });
  document.getElementById('head').append(
    h('p', null, prose(document_.info.description)),
    h('p', null, TEXT.about, h('a', { href: '/api/openapi.json' }, '/api/openapi.json')));
  replace(document.getElementById('index'), h('div', { class: 'field' }, h('label', { for: 'filter' }, TEXT.filter), search), groups.map((group) => group.node));
  replace(document.getElementById('calls'), all.map((one) => one.section));
  document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

async function load() {
  const main = document.getElementById('calls');
  replace(main, h('p', { role: 'status' }, TEXT.loading));
  try {
    const answer = await fetch('/api/openapi.json', { signal: AbortSignal.timeout(15000) });
    if (answer.status === 401) {
      replace(main, h('p', { role: 'alert' }, h('a', { href: '/' }, TEXT.login)));
      return;
    }
    if (!answer.ok) throw new Error(String(answer.status));
    show(await answer.json());
  } catch (error) {
    replace(main, h('p', { role: 'alert' }, TEXT.failed(error.message)), h('button', { class: 'button', onclick: load }, TEXT.retry));
  }
}

load();
