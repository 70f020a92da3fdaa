/** Adding a meter step by step, and editing one: device, connection, test, name. */

import {readerNote} from './actions.js';
import {get, isAdmin, meterPath, post, put} from './api.js';
import {h, replace} from './dom.js';
import {connectionForm, detailsForm} from './connection.js';
import {devicePicker} from './devices.js';
import {mergePatch, placeFaults} from './fields.js';
import {busy, button, card, failed, note, pageHead, spinner} from './parts.js';
import {t} from './text.js';
import {trial} from './trial.js';

const STEPS = ['device', 'connection', 'test', 'details'];
const KEPT = ['name', 'location', 'protocol', 'meterType', 'pollInterval', 'staleAfter', 'maxPower', 'communication'];

export function page([id], leaving) {
	const title = t(id ? 'edit.title' : 'add.title');
	const node = h('div.stack');

	async function load() {
		replace(node, spinner());
		try {
			const [templates, meter] = await Promise.all([get('/api/templates'), id && get(meterPath(id))]);
			const form = id ? await editForm(templates, meter, leaving) : addForm(templates, leaving);
			replace(node, pageHead(id ? t('edit.titleNamed', {name: meter.name}) : title), form);
		} catch (error) {
			if (!error.code) throw error;
			replace(node, pageHead(title), failed(error, load));
		}
	}

	if (isAdmin()) load();
	else replace(node, pageHead(title), readerNote(), h('a', {href: '#/meters'}, t('meter.toList')));
	return {node, title};
}

/** All that is known of a meter at once. meter: as the API shows it. */
async function editForm(templates, meter, leaving) {
	const known = KEPT.filter((name) => ![null, undefined, ''].includes(meter[name]));
	const before = Object.fromEntries(known.map((name) => [name, meter[name]]));
	const path = `#/meters/${meter.id}`;
	const parts = formParts(templates, before, leaving, {});
	const save = h('button.button.primary', t('form.saveChanges'));
	const store = async () => {
		const patch = mergePatch(before, parts.draft);
		if (Object.keys(patch).length) await put(meterPath(meter.id), patch);
		location.hash = path;
	};
	await parts.drawConnection();
	parts.drawDetails();
	return formOf(() => busy(save, () => parts.attempt(store, 'details')),
		['connection', 'test', 'details'].map((name) => parts.sections[name]), h('div.row', save, cancelLink(path)));
}

/** The guided way to a new meter, one step after the other. */
function addForm(templates, leaving) {
	const rail = h('ol.rail', {'aria-label': t('add.steps')});
	const buttons = h('div.row');
	const parts = formParts(templates, {communication: {}}, leaving, {
		// A good test makes the way on the button to press.
		onTested: judge,
		toStep: (name) => step !== name && show(name, false),
	});
	const {draft, sections} = parts;
	let step = STEPS[0];
	let next = null;

	function judge(good) {
		const text = step === 'details' ? 'meters.add' : step === 'test' && !good ? 'form.nextAnyway' : 'form.next';
		replace(next, t(text));
		next.classList.toggle('primary', step !== 'test' || good);
	}

	async function show(name, moveFocus = true) {
		parts.trial.stop();
		if (name === 'connection') await parts.drawConnection();
		if (name === 'details') parts.drawDetails();
		step = name;
		const at = STEPS.indexOf(name);
		for (const one of STEPS) sections[one].hidden = one !== name;
		replace(rail, STEPS.map((one, i) => h('li', {'aria-current': i === at && 'step', class: i < at && 'done'}, t(`step.${one}`))));
		next = h('button.button');
		judge(false);
		replace(buttons, at > 0 && button(t('form.back'), () => show(STEPS[at - 1]), {icon: 'back'}), next, cancelLink('#/meters'));
		if (moveFocus) sections[name].querySelector('h2').focus();
		if (name === 'test') parts.trial.run();
	}

	async function store() {
		location.hash = `#/meters/${(await post('/api/energy-meters', draft)).id}`;
	}

	function goOn() {
		if (step === 'device' && !draft.protocol) return parts.tell('device', [{message: t('device.missing')}]);
		return busy(next, () => (step === 'details' ? parts.attempt(store, step) : show(STEPS[STEPS.indexOf(step) + 1])));
	}

	show(step, false);
	return formOf(goOn, rail, Object.values(sections), buttons);
}

/**
 * What both forms are made of: the draft, a card for each step, and how faults are told in them.
 * onTested(good): an answer of the meter came; toStep(name): a step has a fault that is to be seen.
 */
function formParts(templates, document, leaving, {onTested = () => {}, toStep = () => {}}) {
	const draft = structuredClone(document);
	const tester = trial(draft, {onFaults: (error) => showFaults(error, 'test'), onApply: apply, onDone: onTested});
	const connection = h('div.stack', {oninput: tester.invalidate});
	const details = h('div.stack');
	const device = devicePicker(templates, draft, () => {
		drawn = null;
		tester.invalidate();
		replace(details);
	});
	const summaries = {};
	const sections = {};
	let drawn = null;
	leaving.addEventListener('abort', tester.stop);
	for (const [name, body] of Object.entries({device, connection, test: tester.node, details})) {
		summaries[name] = h('div.stack', {role: 'alert'});
		sections[name] = card(t(`step.${name}`), h('div.stack', summaries[name], body));
		sections[name].querySelector('h2').tabIndex = -1;
	}

	async function drawConnection() {
		if (drawn) return;
		const {template} = draft.communication;
		try {
			drawn = {template: template ? await get(`/api/templates/${encodeURIComponent(template)}`) : null};
			connectionForm(connection, draft, drawn.template);
		} catch (error) {
			if (!error.code) throw error;
			replace(connection, failed(error, drawConnection));
		}
	}

	function drawDetails() {
		if (!details.firstChild) detailsForm(details, draft, templates.find(({name}) => name === draft.communication.template));
	}

	/** Takes over how a quantity is to be read, and tries again. */
	function apply(name, {wordOrder, ...entry}) {
		if (!entry.type.endsWith('16')) entry.wordOrder = wordOrder;
		const registers = {...draft.communication.registers, [name]: entry};
		delete registers[`${name}Scale`];
		if (name === 'energy') delete registers.energyHigh;
		draft.communication.registers = registers;
		connectionForm(connection, draft, drawn.template);
		tester.run();
	}

	async function attempt(store, step) {
		try {
			await store();
		} catch (error) {
			if (!error.code) throw error;
			await showFaults(error, step);
		}
	}

	/** Shows each fault at its field, and goes to the first. */
	async function showFaults(error, at) {
		for (const name of STEPS) tell(name, []);
		if (!error.details.length) return tell(at, [error]);
		const isOfConnection = ({field}) => /^communication\b/.test(field);
		const placed = ['connection', 'details'].map((name) => {
			const faults = error.details.filter((fault) => isOfConnection(fault) === (name === 'connection'));
			return {name, faults, ...placeFaults(sections[name], faults)};
		});
		const {name: step, first} = placed.find(({faults}) => faults.length);
		await toStep(step);
		for (const {name, rest} of placed) tell(name, rest);
		first?.closest('details')?.setAttribute('open', '');
		return (first ?? sections[step].querySelector('h2')).focus();
	}

	/** Says above a step what no field of it is about. */
	function tell(step, faults) {
		replace(summaries[step], faults.map(({field, message}) => note('critical', field ? `${field}: ${message}` : message)));
	}

	return {draft, sections, trial: tester, drawConnection, drawDetails, attempt, tell};
}

function formOf(onSubmit, ...children) {
	const submit = (event) => {
		event.preventDefault();
		onSubmit();
	};
	return h('form.stack', {novalidate: true, onsubmit: submit}, children);
}

function cancelLink(href) {
	return h('a.button.quiet', {href}, t('form.cancel'));
}
