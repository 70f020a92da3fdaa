/** The first page: what is free for the cars, why, and what goes on at the site. */

import {problems} from './alerts.js';
import {get} from './api.js';
import {chart} from './chart.js';
import {h, replace} from './dom.js';
import {ago, allowance, isKnown, kilowatts, parseTime, power} from './format.js';
import {ageOf, freshness, live, loadAge, loadIsLive, store, subscribe} from './live.js';
import {card, chip, empty, icon, lookIcon, measure} from './parts.js';
import {upToDate} from './refresh.js';
import {t} from './text.js';

const CHART_EVERY_MS = 60_000;
const MOST_SOURCES = 5;

export function page(params, leaving) {
	const title = t('overview.title');
	const day = dayChart(leaving);
	subscribe((changes) => changes.has('connection') && store.connected && day.again(), leaving);
	const node = h('div.stack',
		h('h1.visually-hidden', title), live(available, leaving), live(flows, leaving),
		card(t('day.title'), day.node), problems(leaving));
	return {node, title};
}

function available() {
	const {load} = store;
	const isOld = load !== null && !loadIsLive();
	return h('section.card.hero', {'aria-labelledby': 'available', class: isOld && 'stale'},
		h('div',
			h('h2', {id: 'available'}, t('overview.available')),
			h('p.hero-number', measure(allowance(load?.availableCapacity), 'kW'))),
		h('div.hero-why',
			h('p.row', reliability(load, isOld)),
			isOld && h('p.fault', t('overview.stale', {age: ago(loadAge(), false)})),
			h('ul.reasons', reasonsOf(load).map((reason) => h('li', icon('bad'), h('span', reason))))));
}

function reliability(load, isOld) {
	if (load === null) return [chip('pending', t('live.connecting')), t('overview.waiting')];
	if (isOld) return chip('stale', t('freshness.stale'));
	return [chip(load.quality, t(`quality.${load.quality}`)), t(`quality.${load.quality}.why`)];
}

/** An overload has to stand beside the 0 that it makes. */
function reasonsOf(load) {
	const overload = load?.overload > 0 ? [t('flow.overload', {power: kilowatts(load.overload)})] : [];
	return [...overload, ...(load?.reasons ?? [])];
}

/** Grid capacity + PV production - building consumption = free for cars. */

function flows() {
	const load = store.load ?? {};
	const meters = [...store.meters.values()];
	const consumers = meters.filter(({meterType}) => meterType === 'grid' || meterType === 'building');
	const solars = meters.filter(({meterType}) => meterType === 'solar');
	const equation = h('div.equation',
		term('grid', 'grid', power(load.gridCapacity), t('flow.grid.note')),
		h('span.operator', '+'),
		term('pv', 'sun', power(load.pvProduction), solars.length ? '' : t('flow.noMeters.pv'), solars),
		h('span.operator', '−'),
		term('building', 'building', power(load.buildingConsumption), buildingNote(load, consumers), consumers),
		h('span.operator', '='),
		term('free', 'car', allowance(load.availableCapacity), isCut(load) ? t('flow.free.cut') : ''));
	return card(t('overview.flows'), equation, {class: store.load && !loadIsLive() && 'stale'});
}

/** Whether the equation does not hold since the consumption is not known. */
function isCut({quality}) {
	return quality === 'failsafe' || quality === 'unmetered';
}

function buildingNote(load, consumers) {
	if (store.load === null) return '';
	if (consumers.length === 0) return t('flow.noMeters.building');
	if (isCut(load)) return t('value.unknown');
	const missing = consumers.some((meter) => freshness(meter) !== 'live');
	return load.quality === 'degraded' && missing ? t('flow.worstCase') : '';
}

function term(kind, iconName, text, remark, meters = []) {
	const n = meters.length - MOST_SOURCES;
	return h(`div.term.${kind}`,
		h('p.row.muted', icon(iconName), t(`flow.${kind}`)),
		h('p.term-value', measure(text, 'kW')),
		h('p.hint', remark),
		h('ul.sources', meters.slice(0, MOST_SOURCES).map(source)),
		n > 0 && h('a.hint', {href: '#/meters'}, t('flow.more', {n})));
}

function source(meter) {
	const look = freshness(meter);
	const age = look === 'live' || look === 'none' ? '' : ` · ${ago(ageOf(meter), look !== 'stale')}`;
	return h('li', {dataset: {key: meter.id}, class: look !== 'live' && 'stale'},
		h('a', {href: `#/meters/${encodeURIComponent(meter.id)}`},
			lookIcon(look), h('span.visually-hidden', t(`freshness.${look}`)), h('span', meter.name)),
		h('span', measure(power(meter.currentPower), 'kW'), h('span.muted', age)));
}

function dayChart(leaving) {
	const place = h('div');
	const drawing = chart({label: t('day.label')});
	const nothing = empty(t('day.empty'));
	return upToDate(place, async () => {
		const {from, step, ...curves} = await get('/api/analytics/power');
		const stepMs = step * 1000;
		const series = ['available', 'consumption', 'production'].map((name) => ({
			label: t(`day.${name}`),
			className: `series-${name}`,
			// A value stands in the middle of its step.
			points: curves[name].map((value, i) => [parseTime(from) + (i + 0.5) * stepMs, value]),
		}));
		const {length} = curves.available;
		drawing.show({series, stepMs, range: [0, length * stepMs].map((ms) => parseTime(from) + ms)});
		const wanted = series.some(({points}) => points.some(([, value]) => isKnown(value))) ? drawing.node : nothing;
		if (place.firstChild !== wanted) replace(place, wanted);
	}, CHART_EVERY_MS, leaving);
}
