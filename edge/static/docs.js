/** The API's reference: what /api/openapi.json says, to read. */

import {h, replace, setText} from './dom.js';
import {failed, spinner} from './parts.js';
import {t} from './text.js';

const TIMEOUT_MS = 15_000;
const METHODS = ['get', 'post', 'put', 'delete'];
const LIMITS = {minimum: '≥', maximum: '≤', minLength: 'length ≥', maxLength: 'length ≤', maxProperties: 'keys ≤', pattern: 'like'};

const [head, index, calls, found] = ['head', 'index', 'calls', 'found'].map((id) => document.getElementById(id));
let components = {};

function resolve(given) {
	if (!given?.$ref) return given;
	const [, , kind, name] = given.$ref.split('/');
	return {...resolve(components[kind][name]), ...given};
}

function phrase(given) {
	const schema = resolve(given);
	if (schema.allOf) return phrase(schema.allOf[0]);
	const choices = schema.anyOf ?? schema.oneOf;
	if (!schema.type && choices) return choices.map(phrase).join(' or ');
	const kind = [schema.type ?? 'anything'].flat().join(' or ');
	return [kind, schema.items && `of ${phrase(schema.items)}`, schema.format && `(${schema.format})`].filter(Boolean).join(' ');
}

/** What else holds for it: words that there are, limits, default. */
function limits(schema) {
	const words = 'const' in schema ? [schema.const] : schema.enum;
	const isShort = (key) => key in schema && String(schema[key]).length < 30;
	return [
		words && `${t('docs.oneOf')} ${words.map((word) => JSON.stringify(word)).join(', ')}`,
		...Object.keys(LIMITS).filter(isShort).map((key) => `${LIMITS[key]} ${schema[key]}`),
		'default' in schema && `${t('docs.default')} ${JSON.stringify(schema.default)}`,
	].filter(Boolean).join('; ');
}

function prose(text) {
	return text.split('`').map((part, i) => (i % 2 ? h('code', part) : part));
}

function keyRow(name, given, needed) {
	const schema = resolve(given);
	return [
		h('dt', h('code', name), ' ', h('span.muted', phrase(schema)), needed && h('span.bad', ` ${t('form.required')}`)),
		h('dd', h('p', prose(schema.description ?? '')), h('p', limits(schema)), inside(schema, name)),
	];
}

/** The keys of an object, list or choice, made when opened; null for a plain value. */
function inside(given, label) {
	const schema = resolve(given);
	if (schema.items) return inside(schema.items, label);
	const choices = (schema.oneOf ?? schema.anyOf ?? schema.allOf ?? []).filter((one) => resolve(one).properties);
	if (!schema.properties && choices.length) return choices.map((one) => inside(one, one.$ref?.split('/').pop() ?? label));
	const others = resolve(schema.additionalProperties);
	if (!schema.properties && !others?.properties) return null;
	const details = h('details', h('summary', h('code', label)));
	const fill = () => details.append(h('dl',
		Object.entries(schema.properties ?? {}).map(([name, one]) => keyRow(name, one, schema.required?.includes(name))),
		typeof others === 'object' && keyRow(t('docs.others'), others, false)));
	details.addEventListener('toggle', fill, {once: true});
	return details;
}

function parameters(operation, where) {
	const rows = (operation.parameters ?? []).filter((one) => one.in === where)
		.map(({name, schema, description, required}) => keyRow(name, {...schema, description}, required));
	return rows.length > 0 && [h('h4', t(`docs.${where}`)), h('dl', rows)];
}

function content(about) {
	return Object.entries(about.content ?? {}).map(([type, {schema}]) =>
		[h('p', h('code', type)), schema && inside(schema, phrase(schema))]);
}

function answer([status, given]) {
	const about = resolve(given);
	const [title, ...lines] = about.description.split('\n').filter(Boolean);
	return [
		h('dt', h('code', status), ` ${title}`),
		h('dd', lines.map((line) => h('p', prose(line.replace(/^- /, '')))), status < 400 && content(about)),
	];
}

function call(path, method, operation) {
	const {operationId: id, description, security, requestBody, responses} = operation;
	const answers = Object.entries(responses);
	return h('section.card', {id, 'aria-labelledby': `${id}-name`},
		h('h3', {id: `${id}-name`}, badge(method), path),
		h('p.lines', prose(description)),
		h('p.muted', t(`docs.${security[0]?.token?.[0] ?? 'everyone'}`)),
		parameters(operation, 'path'), parameters(operation, 'query'),
		requestBody && [h('h4', t('docs.body')), content(requestBody)],
		h('h4', t('docs.answers')), h('dl', answers.filter(([status]) => status < 400).map(answer)),
		h('details', h('summary', t('docs.refusals')), h('dl', answers.filter(([status]) => status >= 400).map(answer))));
}

function badge(method) {
	return h('span.method', {class: method !== 'get' && 'bad'}, method.toUpperCase());
}

function show({components: parts, paths, info}) {
	components = parts;
	const all = Object.entries(paths).flatMap(([path, item]) => METHODS.filter((method) => item[method]).map((method) => {
		const {operationId, summary, description, tags: [tag]} = item[method];
		return {
			tag,
			section: call(path, method, item[method]),
			link: h('li', h('a', {href: `#${operationId}`}, badge(method), path)),
			words: `${method} ${path} ${summary} ${description}`.toLowerCase(),
		};
	}));
	const groups = Map.groupBy(all, ({tag}) => tag);
	const filter = () => {
		const wanted = search.value.trim().toLowerCase();
		for (const {section, link, words} of all) section.hidden = link.hidden = !words.includes(wanted);
		setText(found, t('docs.found', {n: all.filter(({link}) => !link.hidden).length}));
	};
	const search = h('input', {type: 'search', id: 'filter', oninput: filter});
	head.append(
		h('p', prose(info.description)), h('p', t('docs.about'), h('a', {href: '/api/openapi.json'}, '/api/openapi.json')));
	replace(index,
		h('div.field', h('label', {for: 'filter'}, t('docs.filter')), search),
		[...groups].map(([tag, ones]) => h('div', h('h2', tag), h('ul', ones.map(({link}) => link)))));
	replace(calls, all.map(({section}) => section));
	document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

async function load() {
	replace(calls, spinner());
	try {
		const response = await fetch('/api/openapi.json', {signal: AbortSignal.timeout(TIMEOUT_MS)});
		if (response.status === 401) replace(calls, h('p', {role: 'alert'}, h('a', {href: '/'}, t('docs.login'))));
		else if (!response.ok) throw new Error(response.status);
		else show(await response.json());
	} catch ({message}) {
		replace(calls, failed({message: t('docs.failed', {why: message})}, load));
	}
}

load();
