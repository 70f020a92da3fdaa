/** Form fields of a registration: labels, hints, and faults where they belong. */

import {h, setAttribute, setText} from './dom.js';
import {hasText, t} from './text.js';

/** Fields of a registration; fallback: what holds when nothing is given. */
const FIELDS = {
	name: {required: true},
	pollInterval: {kind: 'number', unit: 'ms'},
	staleAfter: {kind: 'number', unit: 'ms'},
	maxPower: {kind: 'number', unit: 'kW'},
	transport: {choices: ['tcp', 'rtu-over-tcp', 'rtu'], fallback: 'tcp'},
	host: {required: true},
	port: {kind: 'number', fallback: 502},
	serialPort: {required: true},
	baudrate: {kind: 'number', fallback: 9600},
	parity: {choices: ['N', 'E', 'O'], fallback: 'N'},
	stopbits: {kind: 'number', fallback: 1},
	bytesize: {kind: 'number', fallback: 8},
	unitId: {kind: 'number', fallback: 1},
	registerType: {choices: ['holding', 'input'], fallback: 'holding'},
	wordOrder: {choices: ['big', 'little'], fallback: 'big'},
	timeout: {kind: 'number', unit: 'ms'},
	retries: {kind: 'number', fallback: 1},
	requestDelay: {kind: 'number', unit: 'ms', fallback: 0},
	maxRegistersPerRequest: {kind: 'number', fallback: 125},
	maxGap: {kind: 'number', fallback: 8},
	invert: {kind: 'flag', fallback: false},
	broker: {fallback: 'default'},
	url: {kind: 'url', required: true},
	method: {choices: ['GET', 'POST'], fallback: 'GET'},
	body: {kind: 'json'},
	headers: {kind: 'json'},
	authToken: {kind: 'secret'},
	password: {kind: 'secret'},
	verifyTls: {kind: 'flag', fallback: true},
};

let fields = 0;

/** What leads from one JSON document to another, as a merge patch (RFC 7396). */
export function mergePatch(from, to) {
	const isTable = (value) => value?.constructor === Object;
	const patch = {};
	for (const name of Object.keys({...from, ...to})) {
		const [old, now] = [from[name], to[name]];
		if (JSON.stringify(old) === JSON.stringify(now)) continue;
		patch[name] = isTable(old) && isTable(now) ? mergePatch(old, now) : now ?? null;
	}
	return patch;
}

/**
 * Makes a labelled control for a value of a table. options: those of FIELDS, `label`, `hint`,
 * path: where the API sees its faults, onchange().
 */
export function field(table, name, options = {}) {
	const about = {...FIELDS[name], ...options};
	const change = (value) => {
		if (value === undefined) delete table[name];
		else table[name] = value;
		if (about.onchange) about.onchange();
	};
	const hint = about.hint ?? (hasText(`form.${name}.hint`) && t(`form.${name}.hint`));
	const addition = about.required ? t('form.required') : about.unit;
	const label = [about.label ?? t(`form.${name}`), addition && h('span.muted', ` (${addition})`)];
	return control(about, table[name], change, {label, hint, path: about.path ?? name});
}

/** As `field`, for any value. onChange(value): undefined is nothing, or what holds anyway. */
export function control(about, value, onChange, {label, hint, path}) {
	const id = `field-${(fields += 1)}`;
	const {kind, choices, required, fallback} = about;
	const set = () => {
		const now = valueOf(node, kind);
		tell(node, '');
		onChange(now === fallback ? undefined : now);
	};
	const node = bareControl(about, value, {
		id, required, dataset: path && {path}, 'aria-describedby': `${id}-hint ${id}-fault`,
		[choices || kind === 'flag' ? 'onchange' : 'oninput']: set,
	});
	const head = h('label', {for: id}, label);
	return h('div.field', {class: kind === 'flag' && 'flag'}, kind === 'flag' ? [node, head] : [head, node],
		h('p.hint', {id: `${id}-hint`}, hint), h('p.fault', {id: `${id}-fault`}));
}

function bareControl({kind, choices, fallback, nameOf = choiceName}, value, props) {
	if (kind === 'flag') return h('input', {...props, type: 'checkbox', checked: value ?? fallback});
	if (choices) {
		return h('select', props, choices.map((choice) =>
			h('option', {value: choice, selected: choice === (value ?? fallback)}, nameOf(choice))));
	}
	const shown = typeof value === 'object' ? JSON.stringify(value, null, 2) : value ?? '';
	if (kind === 'json') return h('textarea', {...props, spellcheck: 'false', value: shown});
	return h('input', {
		...props, type: kind === 'secret' ? 'password' : 'text', value: shown, placeholder: fallback,
		inputmode: {number: 'decimal', url: 'url'}[kind], autocomplete: kind === 'secret' ? 'new-password' : 'off',
		spellcheck: 'false', autocapitalize: 'off',
	});
}

function choiceName(choice) {
	return hasText(`choice.${choice}`) ? t(`choice.${choice}`) : choice;
}

/** A number that is none stays text: the API says so. */
function valueOf(node, kind) {
	if (kind === 'flag') return node.checked;
	const text = node.value.trim();
	if (text === '') return undefined;
	if (kind === 'number') return Number.isNaN(Number(text)) ? text : Number(text);
	return kind === 'json' ? jsonOrText(text) : text;
}

function jsonOrText(text) {
	try {
		return JSON.parse(text);
	} catch {
		return text;
	}
}

/**
 * Puts faults [{field, message}] to the controls they are about, and takes old ones away.
 * Gives {first: the first control with one, rest: faults that no control is about}.
 */
export function placeFaults(root, faults) {
	const controls = [...root.querySelectorAll('[data-path]')];
	for (const one of controls) tell(one, '');
	const rest = faults.filter(({field: path, message}) => {
		const about = bestFor(controls, path);
		if (about) tell(about, [faultOf(about).textContent, message].filter(Boolean).join('; '));
		return !about;
	});
	return {first: controls.find((one) => one.getAttribute('aria-invalid')), rest};
}

/** The control nearest around a path, else the first within it. */
function bestFor(controls, path) {
	const around = controls.filter(({dataset}) => `${path}.`.startsWith(`${dataset.path}.`));
	const [nearest] = around.sort((one, other) => other.dataset.path.length - one.dataset.path.length);
	return nearest ?? controls.find(({dataset}) => dataset.path.startsWith(`${path}.`));
}

function tell(node, message) {
	setText(faultOf(node), message && message[0].toUpperCase() + message.slice(1));
	setAttribute(node, 'aria-invalid', message !== '' && 'true');
}

function faultOf(node) {
	return document.getElementById(`${node.id}-fault`);
}
