/** Editors for what comes in rows: registers, topics, and paths into payloads. */

import {h, replace} from './dom.js';
import {UNITS} from './format.js';
import {control} from './fields.js';
import {button, icon} from './parts.js';
import {quantityName, t} from './text.js';

const FIELDS = {power: 'currentPower', energy: 'totalEnergy'};
const QUANTITIES = [...Object.keys(FIELDS), ...Object.keys(UNITS).filter((name) => !Object.values(FIELDS).includes(name))];
const TYPES = ['uint16', 'int16', 'uint32', 'int32', 'uint64', 'int64', 'float32', 'float64'];
const SCALE = {kind: 'number', fallback: 1};

const capital = (name) => name[0].toUpperCase() + name.slice(1);
const orAsAbove = (...choices) => ({choices: ['', ...choices], nameOf: (choice) => t(choice ? `choice.${choice}` : 'form.asAbove')});

export function fieldOf(quantity) {
	return FIELDS[quantity] ?? quantity;
}

/** Kinds of editors. read and write: rows from and into `communication`; path: of a row's column. */
const EDITORS = {
	registers: {
		names: [...QUANTITIES, 'energyHigh'],
		columns: {
			address: {kind: 'number'}, type: {choices: TYPES, fallback: 'uint16'}, scale: SCALE,
			wordOrder: orAsAbove('big', 'little'), registerType: orAsAbove('holding', 'input'), notAvailable: {kind: 'number'},
		},
		path: (name, column) => `registers.${name}.${column}`,
		read: ({registers = {}}) => Object.keys(registers).filter((name) => !name.endsWith('Scale')).map((name) => {
			const entry = registers[name];
			const row = typeof entry === 'object' ? {name, ...entry} : {name, address: entry};
			const factor = registers[`${name}Scale`];
			return factor === undefined ? row : {...row, scale: factor * (row.scale ?? 1)};
		}),
		write(communication, rows) {
			communication.registers = Object.fromEntries(rows.map(({name, ...entry}) =>
				[name, Object.keys(entry).join() === 'address' ? entry.address : entry]));
		},
	},
	topics: payloadEditor(['topic', 'path', 'scale']),
	paths: payloadEditor(['path', 'scale']),
};

/** Keys are topic<Quantity>, <quantity>Path, <quantity>Scale. */
function payloadEditor(columns) {
	const path = (name, column) => (column === 'topic' ? `topic${capital(name)}` : `${name}${capital(column)}`);
	return {
		names: QUANTITIES,
		columns: Object.fromEntries(columns.map((column) => [column, column === 'scale' ? SCALE : {}])),
		path,
		read: (communication) => QUANTITIES.map((name) => {
			const given = columns.filter((column) => path(name, column) in communication);
			return {name, ...Object.fromEntries(given.map((column) => [column, communication[path(name, column)]]))};
		}).filter((row) => Object.keys(row).length > 1),
		write(communication, rows) {
			for (const name of QUANTITIES) for (const column of columns) delete communication[path(name, column)];
			for (const {name, ...row} of rows) {
				for (const [column, value] of Object.entries(row)) communication[path(name, column)] = value;
			}
		},
	};
}

export function rowsEditor(draft, kind) {
	const {names, columns, path, read, write} = EDITORS[kind];
	const rows = read(draft.communication);
	const list = h('div.stack');
	const id = `rows-${kind}`;
	const add = button(t('form.addQuantity'), addRow, {id, icon: 'add', class: 'small'});
	if (kind === 'registers') add.dataset.path = 'communication.registers';

	const unused = () => names.filter((name) => rows.every((row) => row.name !== name));
	const store = () => write(draft.communication, rows);
	const show = () => replace(list, rows.map(rowOf));
	const focus = (i) => list.children[i].querySelector('select').focus();

	function addRow() {
		rows.push({name: unused()[0]});
		show();
		focus(rows.length - 1);
	}

	function rowOf(row, i) {
		const title = quantityName(fieldOf(row.name));
		const choices = [row.name, ...unused()];
		const rename = (name) => {
			row.name = name;
			store();
			show();
			focus(i);
		};
		const remove = () => {
			rows.splice(i, 1);
			store();
			show();
			add.focus();
		};
		return h('fieldset.row-edit', h('legend.visually-hidden', title),
			control({choices, nameOf: (name) => quantityName(fieldOf(name))}, row.name, rename, {label: t('form.quantity')}),
			Object.keys(columns).map((column) => cell(row, column)),
			button(icon('close'), remove, {class: 'quiet small', 'aria-label': t('form.removeRow', {name: title})}));
	}

	function cell(row, column) {
		return control(columns[column], row[column], (value) => {
			if (value === undefined) delete row[column];
			else row[column] = value;
			store();
		}, {label: t(`form.column.${column}`), path: `communication.${path(row.name, column)}`});
	}

	if (!rows.length && kind !== 'paths') {
		// The API says what this first row lacks.
		rows.push({name: 'power'});
		store();
	}
	show();
	return h('fieldset.field',
		h('legend', t(`form.${kind}`)), h('p.hint', t(`form.${kind}.hint`)), list, h('div', add), h('p.fault', {id: `${id}-fault`}));
}
