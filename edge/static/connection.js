/** The fields of a registration: how a meter is reached, and what it is called. */

import {h, replace} from './dom.js';
import {field} from './fields.js';
import {TYPE_ICONS, icon, note} from './parts.js';
import {rowsEditor} from './rows.js';
import {t} from './text.js';

const IN = 'communication.';
const SERIAL = ['serialPort', 'baudrate', 'parity', 'stopbits', 'bytesize'];
const DEFAULTS_MS = {modbus: {timeout: 1000, pollInterval: 5000}, http: {timeout: 5000, pollInterval: 30_000}};

/** What a protocol's form has, by hand and from a template: fields, editors and rarer fields. */
const FORMS = {
  modbus: ({communication: {transport, sunspec, registers}}, template) => ({
    main: ['transport', ...(transport === 'rtu' ? SERIAL : ['host', 'port']), 'unitId'],
    editors: sunspec || (template && !registers) ? [] : ['registers'],
    byHand: ['registerType', 'wordOrder'],
    rare: ['timeout', 'retries', 'requestDelay', 'maxRegistersPerRequest', 'maxGap', 'invert'],
  }),
  mqtt: (_, template) => ({
    main: ['broker'], editors: template ? [] : ['topics'], byHand: ['topicStatus'], rare: ['statusPath', 'invert'],
  }),
  http: ({communication: {method}}, template) => ({
    main: template ? [] : ['url', 'method', ...(method === 'POST' ? ['body'] : [])],
    editors: template ? [] : ['paths'], byHand: [],
    secret: ['authToken', 'username', 'password'], rareEditors: ['headers'],
    rare: ['timeout', 'caFile', 'verifyTls', 'invert'],
  }),
};

/** Draws the fields of the connection. template: the details of the one in use, or null. */
export function connectionForm(node, draft, template, redraw) {
  const {protocol, communication} = draft.document;
  const form = FORMS[protocol](draft, template);
  const make = (name) => field(draft, IN + name, optionsOf(name, draft, template, redraw));
  const parameters = Object.entries(template?.parameters ?? {});
  const own = form.main.filter((name) => !parameters.some(([one]) => one === name));
  replace(node,
    template && h('p', null, h('strong', null, template.title)),
    template?.caveats.length ? note('info', h('ul', null, template.caveats.map((caveat) => h('li', null, caveat)))) : null,
    h('div', {class: 'fields'}, parameters.map((one) => parameter(draft, one)), own.map(make), !template && form.byHand.map(make)),
    form.editors.map((kind) => rowsEditor(draft, kind)),
    form.secret && h('fieldset', {class: 'group'}, h('legend', null, t('form.login')),
      Object.values(communication).includes('***') && h('p', {class: 'hint'}, t('form.secretKept')),
      h('div', {class: 'fields'}, form.secret.map(make))),
    h('details', null, h('summary', null, t('form.more')),
      h('div', {class: 'fields'}, form.rare.map(make)), form.rareEditors?.map((kind) => rowsEditor(draft, kind))));
}

/** What holds for a field here: a template's value, a protocol's default. */
function optionsOf(name, draft, template, redraw) {
  const serial = draft.communication.transport === 'rtu' ? template?.serial[name] : undefined;
  const fallback = serial ?? template?.communication[name] ?? DEFAULTS_MS[draft.document.protocol]?.[name];
  const options = fallback === undefined ? {} : {fallback};
  if (name === 'transport') return {fallback: 'tcp', onchange: () => toTransport(draft, redraw)};
  if (name === 'method') return {fallback: 'GET', onchange: redraw};
  if (name === 'registerType') return {fallback: 'holding', ...options};
  if (name === 'wordOrder') return {fallback: 'big', ...options};
  if (name === 'parity') return {fallback: 'N', ...options};
  return options;
}

/** What the other transport has no use for is forgotten. */
function toTransport(draft, redraw) {
  const foreign = draft.communication.transport === 'rtu' ? ['host', 'port'] : SERIAL;
  for (const name of foreign) draft.set(IN + name, undefined);
  redraw();
}

function parameter(draft, [name, {title, example, default: fallback}]) {
  return field(draft, IN + name, {
    kind: 'text', label: title, hint: t('form.example', {example}), fallback: fallback ?? undefined, required: fallback === null,
  });
}

/** Draws the fields of what the meter is called and counts as. */
export function detailsForm(node, draft, template) {
  const {protocol} = draft.document;
  draft.document.meterType ??= template?.meterTypes.length === 1 ? template.meterTypes[0] : undefined;
  const times = DEFAULTS_MS[protocol];
  const poll = times && field(draft, 'pollInterval', {fallback: times.pollInterval});
  replace(node,
    h('div', {class: 'fields'}, field(draft, 'name'), field(draft, 'location')),
    typeChoice(draft),
    h('div', {class: 'fields'}, poll, field(draft, 'maxPower'), field(draft, 'staleAfter')));
}

function typeChoice(draft) {
  const choices = Object.entries(TYPE_ICONS).map(([type, iconName], i) => h('div', {class: 'choice'}, h('label', null,
    h('input', {
      type: 'radio', name: 'meterType', checked: draft.document.meterType === type, 'aria-describedby': 'meter-type-fault',
      ...(i ? {} : {id: 'meter-type', dataset: {path: 'meterType'}}), onchange: () => draft.set('meterType', type),
    }),
    h('span', null, icon(iconName), ' ', h('strong', null, t(`type.${type}`)),
      h('span', {class: 'muted'}, ` ${t(`form.type.${type}`)}`)))));
  return h('fieldset', {class: 'group field'}, h('legend', null, t('form.meterType')),
    h('div', {class: 'choices'}, choices), h('p', {class: 'fault', id: 'meter-type-fault'}));
}
