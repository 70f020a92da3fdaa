/** Form fields that are bound to a registration: labels, hints, and faults where they belong. */

import {h, setAttribute, setText} from './dom.js';
import {t} from './text.js';

/** Keys of a registration that have a field: their kind, choices, and what holds when not given. */
const FIELDS = {
  name: {required: true},
  pollInterval: {kind: 'number', unit: 'ms'},
  staleAfter: {kind: 'number', unit: 'ms'},
  maxPower: {kind: 'number', unit: 'kW'},
  transport: {kind: 'choice', choices: ['tcp', 'rtu-over-tcp', 'rtu']},
  host: {required: true},
  port: {kind: 'number', fallback: 502},
  serialPort: {required: true},
  baudrate: {kind: 'number', fallback: 9600},
  parity: {kind: 'choice', choices: ['N', 'E', 'O']},
  stopbits: {kind: 'number', fallback: 1},
  bytesize: {kind: 'number', fallback: 8},
  unitId: {kind: 'number', fallback: 1},
  registerType: {kind: 'choice', choices: ['holding', 'input']},
  wordOrder: {kind: 'choice', choices: ['big', 'little']},
  timeout: {kind: 'number', unit: 'ms'},
  retries: {kind: 'number', fallback: 1},
  requestDelay: {kind: 'number', unit: 'ms', fallback: 0},
  maxRegistersPerRequest: {kind: 'number', fallback: 125},
  maxGap: {kind: 'number', fallback: 8},
  invert: {kind: 'flag', fallback: false},
  broker: {fallback: 'default'},
  url: {required: true, type: 'url'},
  method: {kind: 'choice', choices: ['GET', 'POST']},
  body: {kind: 'json'},
  authToken: {kind: 'secret'},
  password: {kind: 'secret'},
  verifyTls: {kind: 'flag', fallback: true},
};

let nextId = 0;

/** A registration being written. Paths are as the API's faults have them: `communication.host`. */
export class Draft {
  constructor(document = {communication: {}}) {
    this.document = structuredClone(document);
  }

  get communication() {
    return this.document.communication;
  }

  get(path) {
    return path.split('.').reduce((table, name) => table?.[name], this.document);
  }

  /** Sets a value; undefined takes it away. */
  set(path, value) {
    const names = path.split('.');
    const last = names.pop();
    const table = names.reduce((inner, name) => (inner[name] ??= {}), this.document);
    if (value === undefined) delete table[last];
    else table[last] = value;
  }
}

/** What leads from one JSON document to another, as a merge patch (RFC 7396). */
export function mergePatch(from, to) {
  const isTable = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);
  const patch = {};
  for (const name of new Set([...Object.keys(from), ...Object.keys(to)])) {
    if (to[name] === undefined) patch[name] = null;
    else if (isTable(from[name]) && isTable(to[name])) {
      const inner = mergePatch(from[name], to[name]);
      if (Object.keys(inner).length) patch[name] = inner;
    } else if (JSON.stringify(from[name]) !== JSON.stringify(to[name])) patch[name] = to[name];
  }
  return patch;
}

/** What stands in a control as a value; a number that is none stays text, and the API says so. */
export function valueOf(control, kind) {
  if (kind === 'flag') return control.checked;
  const text = control.value.trim();
  if (text === '') return undefined;
  if (kind === 'number') return Number.isNaN(Number(text)) ? text : Number(text);
  return kind === 'json' ? jsonOrText(text) : text;
}

/**
 * Makes a labelled control for a path of a draft. options: `label`, `hint`, and those of FIELDS;
 * fallback: what holds when nothing is given. onchange(): called once the value changed.
 */
export function field(draft, path, options = {}) {
  const name = path.split('.').at(-1);
  const about = {...FIELDS[name], ...options};
  const {kind, required, unit, onchange = () => {}} = about;
  const shown = draft.get(path) ?? (kind === 'flag' || kind === 'choice' ? about.fallback : undefined);
  const set = () => {
    const value = valueOf(control, kind);
    draft.set(path, value === about.fallback ? undefined : value);
    onchange();
  };
  const id = `field-${(nextId += 1)}`;
  const control = makeControl(about, shown, {
    id, dataset: {path}, required, [kind === 'choice' || kind === 'flag' ? 'onchange' : 'oninput']: set,
  });
  const hint = about.hint ?? textOf(`form.${name}.hint`);
  const addition = required ? t('form.required') : unit;
  const label = [about.label ?? t(`form.${name}`), addition && h('span', {class: 'muted'}, ` (${addition})`)];
  return labelled(id, control, label, hint, kind === 'flag');
}

/** Puts label, hint and a place for faults around a control. */
export function labelled(id, control, label, hint, beside = false) {
  const fault = h('p', {class: 'fault', id: `${id}-fault`});
  const hintNode = hint && h('p', {class: 'hint', id: `${id}-hint`}, hint);
  setAttribute(control, 'aria-describedby', [hint && `${id}-hint`, `${id}-fault`].filter(Boolean).join(' '));
  control.addEventListener('input', () => tell(control, ''));
  const head = h('label', {for: id}, label);
  return h('div', {class: `field ${beside ? 'flag' : ''}`}, beside ? [control, head] : [head, control], hintNode, fault);
}

/** Makes a bare control of a kind; value: undefined shows the fallback in grey. */
export function makeControl({kind = 'text', choices = [], names = {}, fallback, type = 'text'}, value, props) {
  if (kind === 'flag') return h('input', {...props, type: 'checkbox', checked: value});
  if (kind === 'choice') {
    return h('select', props, choices.map((choice) =>
      h('option', {value: choice, selected: choice === value}, names[choice] ?? textOf(`choice.${choice}`) ?? choice)));
  }
  const shown = typeof value === 'object' ? JSON.stringify(value, null, 2) : String(value ?? '');
  if (kind === 'json') return h('textarea', {...props, rows: 4, spellcheck: 'false', value: shown});
  return h('input', {
    ...props, type: kind === 'secret' ? 'password' : type, value: shown, placeholder: fallback,
    inputmode: kind === 'number' && 'decimal', autocomplete: kind === 'secret' ? 'new-password' : 'off',
    spellcheck: 'false', autocapitalize: 'off',
  });
}

/**
 * Puts faults [{field, message}] to the controls they are about, and takes old ones away.
 * Gives {first: the first control with one, rest: faults that no control is about}.
 */
export function placeFaults(root, faults) {
  const controls = [...root.querySelectorAll('[data-path]')];
  for (const control of controls) tell(control, '');
  const rest = [];
  for (const fault of faults) {
    const control = bestFor(controls, fault.field);
    if (control) tell(control, [faultNode(control).textContent, fault.message].filter(Boolean).join('; '));
    else rest.push(fault);
  }
  return {first: controls.find((control) => control.getAttribute('aria-invalid')), rest};
}

/** The control at a path, else the nearest around it, else the first within it. */
function bestFor(controls, path) {
  const around = controls.filter(({dataset}) => `${path}.`.startsWith(`${dataset.path}.`));
  const nearest = around.sort((one, other) => other.dataset.path.length - one.dataset.path.length)[0];
  return nearest ?? controls.find(({dataset}) => dataset.path.startsWith(`${path}.`));
}

function tell(control, message) {
  setText(faultNode(control), message && message[0].toUpperCase() + message.slice(1));
  setAttribute(control, 'aria-invalid', message ? 'true' : null);
}

function faultNode(control) {
  return document.getElementById(`${control.id}-fault`) ?? control.closest('.field').querySelector('.fault');
}

function jsonOrText(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** A text, or undefined where there is none for a key. */
function textOf(key) {
  const text = t(key);
  return text === key ? undefined : text;
}
