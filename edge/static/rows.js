/** Editors for what comes in rows: registers, topics, paths into payloads, and headers. */

import {h, replace} from './dom.js';
import {UNITS} from './format.js';
import {labelled, makeControl, valueOf} from './fields.js';
import {icon} from './parts.js';
import {t} from './text.js';

const OUTWARD = {power: 'currentPower', energy: 'totalEnergy'};
const INWARD = {currentPower: 'power', totalEnergy: 'energy'};
const QUANTITIES = Object.keys(UNITS).map((name) => INWARD[name] ?? name);
const TYPES = ['uint16', 'int16', 'uint32', 'int32', 'uint64', 'int64', 'float32', 'float64'];
const SECRET = /auth|token|secret|pass|pwd|cookie|credential|signature|session|key/i;

const capital = (name) => name[0].toUpperCase() + name.slice(1);
const scale = {kind: 'number', fallback: 1};
const orDefault = (...choices) => ({kind: 'choice', choices: ['', ...choices], names: {'': t('form.asAbove')}});

/** A quantity's name for people. */
export function quantityName(name) {
  return t(`quantity.${OUTWARD[name] ?? name}`);
}

/** Kinds of editors. read and write: rows from and into `communication`; path: of a row's column. */
const EDITORS = {
  registers: {
    names: [...QUANTITIES, 'energyHigh'],
    columns: {
      address: {kind: 'number'}, type: {kind: 'choice', choices: TYPES, fallback: 'uint16'}, scale,
      wordOrder: orDefault('big', 'little'), registerType: orDefault('holding', 'input'), notAvailable: {kind: 'number'},
    },
    path: (name, column) => `communication.registers.${name}.${column}`,
    read: ({registers = {}}) => Object.entries(registers).filter(([name]) => !name.endsWith('Scale')).map(([name, entry]) => {
      const row = typeof entry === 'object' ? entry : {address: entry};
      const factor = registers[`${name}Scale`];
      return {name, ...row, ...(factor === undefined ? {} : {scale: factor * (row.scale ?? 1)})};
    }),
    write(communication, rows) {
      const entries = rows.map(({name, ...entry}) =>
        [name, Object.keys(entry).join() === 'address' ? entry.address : entry]);
      communication.registers = Object.fromEntries(entries);
    },
  },
  topics: payloadEditor(['topic', 'path', 'scale']),
  paths: payloadEditor(['path', 'scale']),
  headers: {
    columns: {value: {}},
    path: (name) => `communication.headers.${name}`,
    read: ({headers = {}}) => Object.entries(headers).map(([name, value]) => ({name, value})),
    write(communication, rows) {
      const headers = rows.filter(({name}) => name).map(({name, value = ''}) => [name, value]);
      if (headers.length) communication.headers = Object.fromEntries(headers);
      else delete communication.headers;
    },
  },
};

/** Where quantities are in payloads: topic<Quantity>, <quantity>Path, <quantity>Scale. */
function payloadEditor(columns) {
  const keyOf = (name, column) => (column === 'topic' ? `topic${capital(name)}` : `${name}${capital(column)}`);
  return {
    names: QUANTITIES,
    columns: Object.fromEntries(columns.map((column) => [column, column === 'scale' ? scale : {}])),
    path: (name, column) => `communication.${keyOf(name, column)}`,
    read: (communication) => QUANTITIES.map((name) => {
      const given = columns.map((column) => [column, communication[keyOf(name, column)]]);
      return {name, ...Object.fromEntries(given.filter(([, value]) => value !== undefined))};
    }).filter((row) => Object.keys(row).length > 1),
    write(communication, rows) {
      for (const name of QUANTITIES) for (const column of columns) delete communication[keyOf(name, column)];
      for (const {name, ...row} of rows) {
        for (const [column, value] of Object.entries(row)) communication[keyOf(name, column)] = value;
      }
    },
  };
}

/** Makes an editor. kind: `registers`, `topics`, `paths` or `headers`. */
export function rowsEditor(draft, kind) {
  const editor = EDITORS[kind];
  const rows = editor.read(draft.communication);
  if (!rows.length && kind !== 'headers' && kind !== 'paths') rows.push({name: 'power'});
  const list = h('div', {class: 'rows'});
  const id = `rows-${kind}`;
  const add = h('button', {type: 'button', class: 'button small', id, onclick: addRow}, icon('add'), t(`form.${kind}.add`));
  const [first] = Object.keys(editor.columns);
  if (kind === 'registers') add.dataset.path = 'communication.registers';

  function store() {
    editor.write(draft.communication, rows);
  }

  function addRow() {
    rows.push({name: editor.names?.find((name) => rows.every((row) => row.name !== name)) ?? ''});
    show();
    list.lastChild.querySelector('select, input').focus();
  }

  function removeRow(row) {
    rows.splice(rows.indexOf(row), 1);
    store();
    show();
    add.focus();
  }

  function show() {
    replace(list, rows.map((row, i) => rowOf(row, i)));
  }

  function rowOf(row, i) {
    const title = editor.names ? quantityName(row.name) : row.name || t('form.header');
    const cells = Object.entries(editor.columns).map(([column, about]) => cell(row, i, column, about));
    const gone = h('button', {
      type: 'button', class: 'button quiet small', 'aria-label': t('form.removeRow', {name: title}),
      onclick: () => removeRow(row),
    }, icon('close'));
    return h('fieldset', {class: `row-edit ${kind}`}, h('legend', {class: 'visually-hidden'}, title), nameCell(row, i), cells, gone);
  }

  /** The value of a header with another name: it may be a secret now. The focus may be in it. */
  function nameHeader({name}, value) {
    value.type = SECRET.test(name) ? 'password' : 'text';
    value.dataset.path = editor.path(name);
  }

  function nameCell(row, i) {
    const others = rows.filter((one) => one !== row).map(({name}) => name);
    const choices = editor.names?.filter((name) => !others.includes(name));
    const names = Object.fromEntries((choices ?? []).map((name) => [name, quantityName(name)]));
    const change = () => {
      row.name = valueOf(control, 'text') ?? '';
      store();
      if (!choices) {
        nameHeader(row, list.children[i].querySelector('[data-path]'));
        return;
      }
      show();
      list.children[i].querySelector('select').focus();
    };
    const props = {id: `${id}-${i}-name`, onchange: change};
    const control = makeControl(choices ? {kind: 'choice', choices, names} : {}, row.name, props);
    return labelled(props.id, control, t(choices ? 'form.quantity' : 'form.header'));
  }

  function cell(row, i, column, about) {
    const kindOf = kind === 'headers' && SECRET.test(row.name) ? {kind: 'secret'} : about;
    const set = () => {
      const value = valueOf(control, about.kind);
      if (value === undefined || value === about.fallback) delete row[column];
      else row[column] = value;
      store();
    };
    const props = {id: `${id}-${i}-${column}`, dataset: {path: editor.path(row.name, column)}, oninput: set};
    const control = makeControl(kindOf, row[column] ?? (about.kind === 'choice' ? about.fallback ?? '' : undefined), props);
    return labelled(props.id, control, t(`form.column.${column}`));
  }

  show();
  if (!rows.every((row) => first in row)) store();
  return h('fieldset', {class: 'group field'},
    h('legend', null, t(`form.${kind}`)), h('p', {class: 'hint'}, t(`form.${kind}.hint`)),
    list, add, h('p', {class: 'fault', id: `${id}-fault`}));
}
