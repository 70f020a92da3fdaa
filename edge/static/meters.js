/** The page of all meters: a live table with sort and filter. */

import {adminLink, meterActions, readerNote} from './actions.js';
import {get} from './api.js';
import {sparkline} from './chart.js';
import {h, patch, replace, setAttribute, setText} from './dom.js';
import {UNKNOWN, ago, isKnown, kilowatts, quantity} from './format.js';
import {ageOf, freshness, store, subscribe} from './live.js';
import {TYPE_ICONS, chip, empty, icon, measure, pageHead, spinner} from './parts.js';
import {upToDate} from './refresh.js';
import {t} from './text.js';

const HOUR_MS = 3_600_000;
const SPARK_HOURS = 24;
const SPARK_EVERY_MS = 10 * 60_000;

const COLUMNS = {
	name: (meter) => meter.name.toLowerCase(),
	status: (meter) => ['error', 'offline', 'pending', 'online'].indexOf(meter.status),
	power: (meter) => meter.currentPower,
	energy: (meter) => meter.totalEnergy,
	age: ageOf,
};
const LARGEST_FIRST = ['power', 'energy', 'age'];
const AT_RIGHT = ['power', 'energy', 'actions'];

/** What the user chose; kept while other pages are looked at. */
const view = {sort: 'name', descending: false, words: ''};

export function page(params, leaving) {
	const title = t('meters.title');
	const add = (text) => adminLink('#/add', 'add', t(text), {class: 'primary'});
	const table = meterTable();
	const nothing = empty(t('meters.empty'), add('meters.addFirst'));
	const place = h('div.card', spinner());
	const curves = upToDate(h('div'), async () => (table.curves = await dayCurves()), SPARK_EVERY_MS, leaving);
	subscribe((changes) => {
		if (store.load === null) return;
		const wanted = store.meters.size ? table.node : nothing;
		if (place.firstChild !== wanted) replace(place, wanted);
		table.update(changes.has('plan'));
		if (changes.has('plan')) curves.again();
	}, leaving);
	return {node: h('div.stack', pageHead(title, add('meters.add')), readerNote(), place, curves.node), title};
}

/** Mean power of each of the last hours, kW: id -> values, null where nothing is known. */
async function dayCurves() {
	const to = Math.ceil(Date.now() / HOUR_MS) * HOUR_MS;
	const query = {from: to - SPARK_HOURS * HOUR_MS, to, resolution: 'hourly'};
	const {meters} = await get('/api/analytics/energy', query);
	return new Map(meters.map(({meterId, meanPower}) => [meterId, meanPower]));
}

/** Gives {node, update(mayMove), curves}. mayMove: rows may be put in another order at once. */
function meterTable() {
	let order = [];
	const heads = Object.keys(COLUMNS).map((name) =>
		head(name, h('button', {type: 'button', onclick: () => sortBy(name)}, t(`meters.${name}`))));
	const body = h('tbody');
	const table = h('table.meters', {'aria-label': t('meters.title')},
		h('thead', h('tr', heads, head('spark', t('meters.spark')), head('actions', t('meters.actions')))), body);
	const count = h('p.muted', {role: 'status'});
	const words = h('input', {type: 'search', value: view.words, oninput: () => choose({words: words.value})});
	const node = h('div.stack',
		h('div', {role: 'search'}, h('label.row', t('meters.search'), words)), h('div.table-wrap', table), count);
	const made = {node, update, curves: new Map()};
	const rows = new Map();

	function choose(chosen) {
		Object.assign(view, chosen);
		update(true);
	}

	function sortBy(name) {
		const again = view.sort === name;
		choose({sort: name, descending: again ? !view.descending : LARGEST_FIRST.includes(name)});
	}

	function update(mayMove) {
		// Rows do not run away from under a pointer or the keyboard.
		if (mayMove || !table.matches(':hover, :focus-within')) order = sorted([...store.meters.values()]);
		const shown = order.map(({id}) => store.meters.get(id)).filter((meter) => meter && matches(meter));
		shown.map(rowFor).forEach((row, i) => row !== body.children[i] && body.insertBefore(row, body.children[i] ?? null));
		while (body.children.length > shown.length) body.lastChild.remove();
		Object.keys(COLUMNS).forEach((name, i) => {
			setAttribute(heads[i], 'aria-sort', name === view.sort && (view.descending ? 'descending' : 'ascending'));
		});
		const all = store.meters.size;
		setText(count, shown.length === all ? '' : t('meters.shown', {n: shown.length, all}));
	}

	/** The row of a meter, drawn anew only where it changed: there may be many. */
	function rowFor(meter) {
		const curve = made.curves.get(meter.id);
		const look = [meter, freshness(meter), ageText(meter), curve];
		const key = `${meter.id} ${meter.name}`;
		const row = rows.get(key) ?? {node: h('tr'), look: []};
		if (look.some((one, i) => one !== row.look[i])) patch(row.node, meterRow(meter, curve));
		rows.set(key, {...row, look});
		return row.node;
	}

	return made;
}

function head(name, text) {
	return h('th', {scope: 'col', class: AT_RIGHT.includes(name) && 'num'}, text);
}

/** A row. curve: mean power of each of the last hours, if it is known. */
function meterRow(meter, curve) {
	const {id, name} = meter;
	const cell = (column, ...children) => h('td', {
		class: AT_RIGHT.includes(column) ? 'num' : column, dataset: {label: t(`meters.${column}`)},
	}, children);
	const trouble = meter.lastError ?? (meter.quality === 'suspect' && meter.hints[0]);
	return h('tr', {class: freshness(meter) === 'stale' && 'stale'},
		h('th', {scope: 'row'}, h('div.meter-name.row', icon(TYPE_ICONS[meter.meterType]), h('div',
			h('a', {href: `#/meters/${encodeURIComponent(id)}`}, name),
			h('span.hint', [t(`type.${meter.meterType}`), meter.location].filter(Boolean).join(' · '))))),
		cell('status', statusChip(meter), trouble && h('p.hint', trouble)),
		cell('power', measure(quantity('currentPower', meter.currentPower), 'kW')),
		cell('energy', measure(quantity('totalEnergy', meter.totalEnergy), 'kWh')),
		cell('age', ageText(meter)),
		cell('spark', curve && curveOf(name, curve)),
		h('td.actions', meterActions(meter)));
}

function ageText(meter) {
	return meter.quality === 'none' ? t('freshness.none') : ago(ageOf(meter), freshness(meter) !== 'stale');
}

function curveOf(name, values) {
	const known = values.filter(isKnown);
	if (!known.length) return UNKNOWN;
	const [min, max] = [Math.min(...known), Math.max(...known)].map(kilowatts);
	return sparkline(values, t('meters.sparkLabel', {name, min, max}));
}

/** The sign of a meter's status; one whose age nobody vouches for is stale, not online. */
export function statusChip(meter) {
	const fresh = freshness(meter);
	if (meter.status === 'online' && fresh !== 'live') return chip(fresh, t(`freshness.${fresh}`));
	return chip(meter.status, t(`status.${meter.status}`));
}

function matches({name, location, id, protocol, status, meterType}) {
	const text = [name, location, id, protocol, t(`status.${status}`), t(`type.${meterType}`)].join(' ').toLowerCase();
	return view.words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

function sorted(meters) {
	const key = COLUMNS[view.sort];
	const sign = view.descending ? -1 : 1;
	return meters.sort((one, other) => {
		const [a, b] = [key(one), key(other)];
		if (a === null || b === null) return (a === null) - (b === null);
		return a === b ? one.name.localeCompare(other.name) : sign * (a < b ? -1 : 1);
	});
}
