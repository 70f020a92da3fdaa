/** The fields of a registration: how a meter is reached, and what it is called. */

import {h, replace} from './dom.js';
import {field} from './fields.js';
import {TYPE_ICONS, icon, note} from './parts.js';
import {rowsEditor} from './rows.js';
import {t} from './text.js';

const IN = 'communication.';
const SERIAL = ['serialPort', 'baudrate', 'parity', 'stopbits', 'bytesize'];
const DEFAULTS_MS = {modbus: {timeout: 1000, pollInterval: 5000}, http: {timeout: 5000, pollInterval: 30_000}};

/** What a protocol's form has. template: the one in use, or null. */
const FORMS = {
	modbus: ({transport, sunspec, registers}, template) => ({
		main: ['transport', ...(transport === 'rtu' ? SERIAL : ['host', 'port']), 'unitId',
			...(template ? [] : ['registerType', 'wordOrder'])],
		editors: sunspec || (template && !registers) ? [] : ['registers'],
		rare: ['timeout', 'retries', 'requestDelay', 'maxRegistersPerRequest', 'maxGap', 'invert'],
	}),
	mqtt: (_, template) => ({
		main: template ? ['broker'] : ['broker', 'topicStatus'],
		editors: template ? [] : ['topics'],
		rare: ['statusPath', 'invert'],
	}),
	http: ({method}, template) => ({
		main: template ? [] : ['url', 'method', ...(method === 'POST' ? ['body'] : [])],
		editors: template ? [] : ['paths'],
		secret: ['authToken', 'username', 'password'],
		rare: ['timeout', 'headers', 'caFile', 'verifyTls', 'invert'],
	}),
};

export function connectionForm(node, draft, template) {
	const {communication} = draft;
	const {main, editors, secret, rare} = FORMS[draft.protocol](communication, template);
	const parameters = template?.parameters ?? {};
	const redraw = () => {
		// What the other transport has no use for is forgotten.
		for (const name of communication.transport === 'rtu' ? ['host', 'port'] : SERIAL) delete communication[name];
		connectionForm(node, draft, template);
	};
	const make = (names) => names.map((name) => {
		const fallback = fallbackOf(name, draft, template);
		const onchange = ['transport', 'method'].includes(name) && redraw;
		return field(communication, name, {path: IN + name, onchange, ...(fallback !== undefined && {fallback})});
	});
	replace(node,
		template && h('strong', template.title),
		template?.caveats.length > 0 && note('info', h('ul', template.caveats.map((caveat) => h('li', caveat)))),
		h('div.fields',
			Object.entries(parameters).map((one) => parameter(communication, one)),
			make(main.filter((name) => !(name in parameters)))),
		editors.map((kind) => rowsEditor(draft, kind)),
		secret && h('fieldset', h('legend', t('form.login')),
			Object.values(communication).includes('***') && h('p.hint', t('form.secretKept')),
			h('div.fields', make(secret))),
		h('details', h('summary', t('form.more')), h('div.fields', make(rare))));
}

/** What holds for a field here: a template's value, a protocol's default. */
function fallbackOf(name, {protocol, communication}, template) {
	const serial = communication.transport === 'rtu' ? template?.serial[name] : undefined;
	return serial ?? template?.communication[name] ?? DEFAULTS_MS[protocol]?.[name];
}

function parameter(communication, [name, {title, example, default: fallback}]) {
	const hint = t('form.example', {example});
	return field(communication, name, {
		path: IN + name, kind: 'text', choices: null, label: title, hint, fallback: fallback ?? undefined, required: fallback === null,
	});
}

export function detailsForm(node, draft, template) {
	draft.meterType ??= template?.meterTypes.length === 1 ? template.meterTypes[0] : undefined;
	const {pollInterval: fallback} = DEFAULTS_MS[draft.protocol] ?? {};
	replace(node,
		h('div.fields', field(draft, 'name'), field(draft, 'location')),
		typeChoice(draft),
		h('div.fields',
			fallback && field(draft, 'pollInterval', {fallback}), field(draft, 'maxPower'), field(draft, 'staleAfter')));
}

function typeChoice(draft) {
	const choices = Object.entries(TYPE_ICONS).map(([type, iconName], i) => h('label.choice',
		h('input', {
			type: 'radio', name: 'meterType', checked: draft.meterType === type, 'aria-describedby': 'meter-type-fault',
			// Faults of the whole choice are told at its first.
			...(i === 0 && {id: 'meter-type', dataset: {path: 'meterType'}}), onchange: () => (draft.meterType = type),
		}),
		h('span', icon(iconName), ' ', h('strong', t(`type.${type}`)), h('span.muted', ` ${t(`form.type.${type}`)}`))));
	return h('fieldset', h('legend', t('form.meterType')), choices, h('p.fault', {id: 'meter-type-fault'}));
}
