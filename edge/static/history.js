/** The history of a meter: a chart that can be zoomed, and its download as CSV. */

import {get, meterPath, withQuery} from './api.js';
import {chart, GAP_STEPS} from './chart.js';
import {h, replace, setText} from './dom.js';
import {duration, parseTime} from './format.js';
import {card, failed, icon, spinner} from './parts.js';
import {t} from './text.js';

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const RANGES = {'1h': HOUR_MS, '24h': DAY_MS, '7d': 7 * DAY_MS, '31d': 31 * DAY_MS, '1y': 366 * DAY_MS};
/** Up to these spans the automatic choice is the finer resolution. */
const LONGEST_MS = {raw: 36 * HOUR_MS, hourly: 45 * DAY_MS, daily: Infinity};
/** Longer spans the API does not give in one answer. */
const MOST_MS = {raw: 31 * DAY_MS, hourly: 400 * DAY_MS};
const SPOKEN_MS = 1000;
/** More readings are shown as means of at most so many steps. */
const MOST_READINGS = 800;
const MOST_STEPS = 400;
const STEPS_S = [10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800];
const MOST_ROWS = 10_000;
const MOST_REFRESH_MS = 300_000;

/** Makes the card; it keeps up until `leaving`. meter: as the API shows it. */
export function historyCard(meter, leaving) {
	const path = `${meterPath(meter.id)}/history`;
	const state = h('div.chart-state');
	const remark = h('p.hint');
	const save = h('a.button.small', icon('download'), t('history.download'));
	const curves = chart({label: t('history.label', {name: meter.name}), onZoom: (...range) => look(null, ...range)});
	const buttons = Object.keys(RANGES).map((name) =>
		h('button', {type: 'button', value: name, onclick: () => look(name)}, t(`history.${name}`)));
	const resolution = h('select', {onchange: () => load()},
		['auto', 'raw', 'hourly', 'daily'].map((name) => h('option', {value: name}, t(`history.${name}`))));
	// name: of the range that follows the time, or null once it was zoomed and stands still.
	let range = {name: '24h'};
	let asked = new AbortController();
	let timer = 0;

	function look(name, fromMs, toMs) {
		range = {name, fromMs, toMs};
		load();
	}

	/** quietly: without a sign of waiting, as for a refresh. */
	async function load(quietly = false) {
		stop();
		const mine = asked = new AbortController();
		if (range.name) Object.assign(range, {fromMs: Date.now() - RANGES[range.name], toMs: Date.now()});
		const {name, fromMs, toMs} = range;
		const detail = detailOf(toMs - fromMs, resolution.value, meter.pollInterval ?? SPOKEN_MS);
		const query = {from: fromMs, to: toMs, ...detail};
		for (const button of buttons) button.setAttribute('aria-pressed', button.value === name);
		const day = new Date(fromMs).toISOString().slice(0, 10);
		save.download = `${meter.name.replace(/[^\p{L}\p{N}]+/gu, '-')}-${detail.resolution}-${day}.csv`;
		save.href = withQuery(path, {...query, step: null, format: 'csv'});
		if (!quietly) replace(state, spinner());
		try {
			const rows = await get(path, {...query, limit: MOST_ROWS}, {signal: mine.signal});
			if (mine.signal.aborted) return;
			const drawn = drawable(rows, detail, meter.staleAfter);
			curves.show({...drawn, range: [fromMs, toMs]});
			replace(state);
			setText(remark, remarkOn(rows, detail));
		} catch (error) {
			if (!mine.signal.aborted) replace(state, failed(error, () => load()));
		}
		if (name && !mine.signal.aborted) keepUp(detail);
	}

	function keepUp({step = 5}) {
		const everyMs = Math.min(2000 * step, MOST_REFRESH_MS);
		timer = setTimeout(() => (document.hidden ? keepUp({step}) : load(true)), everyMs);
	}

	function stop() {
		clearTimeout(timer);
		asked.abort();
	}

	leaving.addEventListener('abort', stop);
	load();
	return card(t('history.title'), h('div.stack',
		h('div.chart-frame', curves.node, state), remark, h('div.row', save, h('span.hint', t('history.downloadHint')))), {
		tools: [
			h('div.segmented', {role: 'group', 'aria-label': t('history.range')}, buttons),
			h('label.row', t('history.resolution'), resolution),
		],
	});
}

/** What to ask for; step: of raw readings that are many, s. */
function detailOf(spanMs, chosen, pollMs) {
	const tooFine = chosen === 'auto' || spanMs > MOST_MS[chosen];
	const resolution = tooFine ? Object.keys(LONGEST_MS).find((name) => spanMs <= LONGEST_MS[name]) : chosen;
	if (resolution !== 'raw' || spanMs / pollMs <= MOST_READINGS) return {resolution};
	const leastS = Math.max(spanMs / MOST_STEPS, pollMs) / 1000;
	return {resolution, step: STEPS_S.find((step) => step >= leastS)};
}

function isReadings({resolution, step}) {
	return resolution === 'raw' && !step;
}

/** What the chart shows, in words. */
function remarkOn(rows, {resolution, step}) {
	if (isReadings({resolution, step})) return t('history.readings');
	if (!rows.length && !step) return t('history.notYet');
	return t('history.means', {step: step ? duration(step) : t(`history.each.${resolution}`)});
}

function stepMsOf({resolution, step = 0}) {
	return {hourly: HOUR_MS, daily: DAY_MS}[resolution] ?? step * 1000;
}

/** What the chart takes. Readings are a gap apart when the meter was stale in between. */
function drawable(rows, detail, staleMs) {
	const stepMs = stepMsOf(detail);
	const single = ({timestamp, currentPower}) => [parseTime(timestamp), currentPower];
	const mean = ({start, end, meanPower, minPower, maxPower}) =>
		[(parseTime(start) + parseTime(end)) / 2, meanPower, minPower, maxPower];
	return {
		series: [{
			label: t(isReadings(detail) ? 'quantity.currentPower' : 'history.mean'),
			className: 'series-value',
			points: rows.map(isReadings(detail) ? single : mean),
		}],
		stepMs: detail.resolution === 'raw' ? Math.max(stepMs, (staleMs + stepMs) / GAP_STEPS) : stepMs,
	};
}
