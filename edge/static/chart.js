/** Charts in SVG: lines over time with gaps and bands, and sparklines. Colours are CSS's. */

import {h, replace, setAttribute, setText, svg} from './dom.js';
import {dateTime, day, isKnown, kilowatts, minute, number, power} from './format.js';
import {button} from './parts.js';
import {LOCALE, t} from './text.js';

const HEIGHT_PX = 260;
const [LEFT_PX, TOP_PX, BOTTOM_PX, RIGHT_GAP_PX] = [50, 14, HEIGHT_PX - 24, 14];
const LEAST_DRAG_PX = 8;
const LEAST_SPAN_MS = 10_000;
/** What is further apart than so many steps is a gap. */
export const GAP_STEPS = 1.75;
const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;
const MONTH_MS = 30.5 * DAY_MS;

const TICK_STEPS_MS = [
	[1000, 1, 5, 15, 30], [MINUTE_MS, 1, 5, 15, 30], [HOUR_MS, 1, 3, 6, 12], [DAY_MS, 1, 2, 5, 10], [MONTH_MS, 1, 3, 6, 12],
].flatMap(([unitMs, ...counts]) => counts.map((n) => n * unitMs));

const SECOND = new Intl.DateTimeFormat(LOCALE, {timeStyle: 'medium'});
const MONTH = new Intl.DateTimeFormat(LOCALE, {month: 'short', year: 'numeric'});

/** The part of the time that changes from one tick to the next. */
function tickText(ms, stepMs) {
	if (stepMs >= MONTH_MS) return MONTH.format(ms);
	if (stepMs >= DAY_MS || startOfDay(ms) === ms) return day(ms);
	return stepMs < MINUTE_MS ? SECOND.format(ms) : minute(ms);
}

function startOfDay(ms) {
	return new Date(ms).setHours(0, 0, 0, 0);
}

/** At most about `count` round moments of local time within from..to, unix ms. */
function timeTicks(fromMs, toMs, count) {
	const stepMs = TICK_STEPS_MS.find((ms) => ms * count >= toMs - fromMs) ?? TICK_STEPS_MS.at(-1);
	const ticks = [];
	for (let dayMs = startOfDay(fromMs), nextMs; dayMs <= toMs; dayMs = nextMs) {
		const date = new Date(dayMs);
		nextMs = new Date(dayMs).setDate(date.getDate() + 1);
		const first = dayMs + Math.ceil(Math.max(fromMs - dayMs, 0) / stepMs) * stepMs;
		if (stepMs < DAY_MS) for (let ms = first; ms < nextMs && ms <= toMs; ms += stepMs) ticks.push(ms);
		else if (dayMs >= fromMs && isTickDay(date, stepMs)) ticks.push(dayMs);
	}
	return {ticks, stepMs};
}

/** Days are counted from each month's first, which always has its tick. */
function isTickDay(date, stepMs) {
	if (stepMs >= MONTH_MS) return date.getDate() === 1 && date.getMonth() % (stepMs / MONTH_MS) === 0;
	const n = stepMs / DAY_MS;
	return (date.getDate() - 1) % n === 0 && date.getDate() + n / 2 <= 32;
}

/** About `count` round values from low to high, and how many decimals they need. */
function valueTicks(low, high, count) {
	const rough = (high - low) / count;
	const magnitude = Math.floor(Math.log10(rough));
	const factor = [1, 2, 5, 10].find((one) => one * 10 ** magnitude >= rough);
	const step = factor * 10 ** magnitude;
	const first = Math.ceil(low / step);
	const length = Math.floor(high / step) - first + 1;
	const digits = Math.max(0, -magnitude - (factor === 10 ? 1 : 0));
	return {values: Array.from({length}, (_, i) => (first + i) * step), digits};
}

/** Runs of [x, value, …] without gaps: null, or more than GAP_STEPS steps. */
function runs(points, step) {
	const found = [];
	let last = -Infinity;
	for (const point of points) {
		const [x, value] = point;
		if (isKnown(value) && x - last <= GAP_STEPS * step) found.at(-1).push(point);
		else if (isKnown(value)) found.push([point]);
		last = isKnown(value) ? x : -Infinity;
	}
	return found;
}

function extent(values) {
	const known = values.filter(isKnown).sort((a, b) => a - b);
	return known.length ? [known[0], known.at(-1)] : null;
}

function valuesOf(series) {
	return series.flatMap(({points}) => points).flatMap(([, ...values]) => values);
}

/** What the value axis spans: 0, all values, and a little room beyond them. */
function valueRange(values) {
	const [low, high] = extent([...values, 0]);
	if (low === high) return [0, 1];
	const room = (high - low) * 0.06;
	return [low < 0 ? low - room : 0, high > 0 ? high + room : 0];
}

/**
 * Makes a chart of power over time; gives {node, show({series, range, stepMs})}.
 *
 * label: what the chart shows, in words. onZoom(fromMs, toMs): the user asks for another range;
 * without it there is no zoom. series: {label, className, points: [[unixMs, kW | null, min?, max?]…]}
 * in order of time. range: [fromMs, toMs]. stepMs: distance of points; what is further apart is a gap.
 */
export function chart({label, onZoom}) {
	let series = [];
	let [fromMs, toMs, stepMs, low, high, width] = [0, 0, 0, 0, 0, 0];
	/** Moments that have values, and of each series: moment -> point. */
	let moments = [];
	let found = [];
	/** Where the cross-hair is, and what is dragged over: {from, to, x}. */
	let at = null;
	let drag = null;

	const readout = h('p.chart-readout');
	const legend = h('ul.chart-legend.row.hint');
	const overlay = svg('g');
	const drawing = svg('svg', {'aria-hidden': 'true', height: HEIGHT_PX, width: '100%'});
	const stage = h('div.chart-stage', {
		tabindex: 0,
		onpointerdown: press,
		onpointermove: hover,
		onpointerup: release,
		onpointercancel: letGo,
		onpointerleave: () => point(null),
		onblur: () => point(null),
		onkeydown: key,
	}, drawing);
	const zoomButton = (sign, name, onclick) =>
		button(sign, onclick, {class: 'quiet small', title: t(`chart.${name}`), 'aria-label': t(`chart.${name}`)});
	const zoomButtons = onZoom && h('div', {role: 'group', 'aria-label': t('chart.zoom')},
		zoomButton('←', 'earlier', () => move(-0.5)), zoomButton('→', 'later', () => move(0.5)),
		zoomButton('+', 'zoomIn', () => scale(0.5)), zoomButton('−', 'zoomOut', () => scale(2)));
	new ResizeObserver(draw).observe(stage);

	function show(given) {
		({series, stepMs, range: [fromMs, toMs]} = given);
		[low, high] = valueRange(valuesOf(series));
		found = series.map(({points}) => new Map(points.map((one) => [one[0], one])));
		moments = [...new Set(found.flatMap((points) => [...points.keys()]))].sort((a, b) => a - b);
		at = at === null ? null : nearest(at);
		legend.hidden = series.length < 2;
		replace(legend, series.map((one) => h('li', h(`span.swatch.${one.className}`), one.label)));
		stage.setAttribute('aria-label', description());
		say();
		draw();
	}

	const xOf = (ms) => LEFT_PX + ((ms - fromMs) / (toMs - fromMs)) * width;
	const yOf = (value) => TOP_PX + ((high - value) / (high - low)) * (BOTTOM_PX - TOP_PX);
	const dot = ([ms, value], r) => svg('circle', {cx: xOf(ms), cy: yOf(value), r});

	function draw() {
		width = stage.clientWidth - LEFT_PX - RIGHT_GAP_PX;
		if (width < 50 || !series.length) return;
		const inner = {x: LEFT_PX, y: TOP_PX, width, height: BOTTOM_PX - TOP_PX};
		replace(drawing,
			valueAxis(), timeAxis(),
			svg('svg', {...inner, viewBox: Object.values(inner).join(' ')}, series.map(line)),
			!moments.length && svg('text.chart-empty', {x: LEFT_PX + width / 2, y: HEIGHT_PX / 2}, t('chart.empty')),
			overlay);
		mark();
	}

	function valueAxis() {
		const {values, digits} = valueTicks(low, high, 5);
		return svg('g.chart-axis', svg('text', {x: 0, y: 9}, 'kW'), values.map((value) => {
			const y = yOf(value);
			return [
				svg('line', {x1: LEFT_PX, x2: LEFT_PX + width, y1: y, y2: y, class: value === 0 && 'zero'}),
				svg('text.end', {x: LEFT_PX - 6, y, dy: '0.32em'}, number(value, digits)),
			];
		}));
	}

	function timeAxis() {
		const {ticks, stepMs: tickMs} = timeTicks(fromMs, toMs, Math.max(1, Math.floor(width / 80)));
		return svg('g.chart-axis', ticks.map((ms) => {
			const x = xOf(ms);
			const nearEnd = x > LEFT_PX + width - 20;
			return [
				svg('line', {x1: x, x2: x, y1: BOTTOM_PX, y2: BOTTOM_PX + 4}),
				svg('text', {x, y: HEIGHT_PX - 6, class: nearEnd ? 'end' : 'middle'}, tickText(ms, tickMs)),
			];
		}));
	}

	function line({className, points}) {
		const path = (run) => `M${run.map(([ms, value]) => `${xOf(ms).toFixed(1)},${yOf(value).toFixed(1)}`).join('L')}`;
		const spread = points.map(([ms, , min, max]) => [ms, min, max]);
		const around = (run) => [...run.map(([ms, , max]) => [ms, max]), ...run.toReversed()];
		return svg(`g.series.${className}`,
			runs(spread, stepMs).map((run) => svg('path.band', {d: `${path(around(run))}Z`})),
			runs(points, stepMs).map((run) => (run.length > 1 ? svg('path.line', {d: path(run)}) : dot(run[0], 2))));
	}

	function mark() {
		const box = (name, from, to) => svg(`rect.${name}`, {
			x: Math.min(xOf(from), xOf(to)), y: TOP_PX, width: Math.abs(xOf(to) - xOf(from)) || 1, height: BOTTOM_PX - TOP_PX,
		});
		replace(overlay,
			drag && box('chart-drag', drag.from, drag.to),
			at !== null && box('chart-cursor', at, at),
			series.map(({className}, i) => {
				const value = found[i].get(at)?.[1];
				return isKnown(value) && svg(`g.series.${className}`, dot([at, value], 4));
			}));
	}

	function textAt(ms) {
		const values = series.map((one, i) => {
			const [, value, min, max] = found[i].get(ms) ?? [];
			const spread = isKnown(min) ? ` (${t('chart.band', {min: power(min), max: power(max)})})` : '';
			return `${one.label} ${kilowatts(value)}${spread}`;
		});
		return `${dateTime(ms)}: ${values.join(', ')}`;
	}

	/** The text in place of the picture. */
	function description() {
		const said = series.map((one) => {
			const spread = extent(valuesOf([one]));
			if (!spread) return `${one.label}: ${t('chart.empty')}`;
			const last = one.points.findLast(([, value]) => isKnown(value))[1];
			const [min, max] = spread.map(kilowatts);
			return `${one.label}: ${t('chart.summary', {last: kilowatts(last), min, max})}`;
		});
		return [label, t('chart.range', {from: dateTime(fromMs), to: dateTime(toMs)}), ...said].join('. ');
	}

	/** To a screen reader the chart is a slider over its moments. */
	function say() {
		const last = moments.length - 1;
		const hint = last >= 0 && onZoom ? t('chart.hint') : '';
		setText(readout, at === null ? hint : textAt(at));
		readout.classList.toggle('muted', at === null);
		const slider = {
			role: 'slider', 'aria-valuemin': 0, 'aria-valuemax': last,
			'aria-valuenow': at === null ? last : moments.indexOf(at),
			'aria-valuetext': last >= 0 && textAt(at ?? moments[last]),
		};
		for (const [name, value] of Object.entries(slider)) setAttribute(stage, name, last >= 0 && value);
		if (last < 0) stage.setAttribute('role', 'img');
	}

	function point(ms) {
		if (ms === at && !drag) return;
		at = ms;
		say();
		mark();
	}

	function momentOf(event) {
		const share = (event.clientX - stage.getBoundingClientRect().left - LEFT_PX) / width;
		return fromMs + Math.min(Math.max(share, 0), 1) * (toMs - fromMs);
	}

	function press(event) {
		if (!onZoom || event.button !== 0) return;
		const from = momentOf(event);
		drag = {from, to: from, x: event.clientX};
		stage.setPointerCapture(event.pointerId);
	}

	/** The moment in sight that is nearest to one; null where none is. */
	function nearest(ms) {
		const far = (moment) => Math.abs(moment - ms);
		const shown = moments.filter((moment) => moment >= fromMs && moment <= toMs);
		return shown.length ? shown.reduce((best, one) => (far(one) < far(best) ? one : best)) : null;
	}

	function hover(event) {
		const ms = momentOf(event);
		if (drag) drag.to = ms;
		point(nearest(ms));
	}

	function release(event) {
		const {from, to, x} = drag ?? {};
		letGo();
		if (Math.abs(event.clientX - x) >= LEAST_DRAG_PX) zoom(Math.min(from, to), Math.max(from, to));
	}

	function letGo() {
		drag = null;
		mark();
	}

	function key(event) {
		const last = moments.length - 1;
		const i = at === null ? last + 1 : moments.indexOf(at);
		const steps = {
			ArrowLeft: i - 1, ArrowDown: i - 1, ArrowRight: i + 1, ArrowUp: i + 1, Home: 0, End: last,
		};
		const scales = onZoom ? {'+': 0.5, '=': 0.5, '-': 2} : {};
		if (event.ctrlKey || event.metaKey || event.altKey) return;
		if (event.key in steps && last >= 0) point(moments[Math.min(Math.max(steps[event.key], 0), last)]);
		else if (event.key in scales) scale(scales[event.key]);
		else if (event.key === 'Escape') point(null);
		else return;
		event.preventDefault();
	}

	// --- Zoom: the owner is asked for another range

	function zoom(from, to) {
		const lacking = Math.max(0, LEAST_SPAN_MS - (to - from)) / 2;
		onZoom(Math.round(from - lacking), Math.round(to + lacking));
	}

	function scale(factor) {
		const centre = at ?? (fromMs + toMs) / 2;
		zoom(centre - (centre - fromMs) * factor, centre + (toMs - centre) * factor);
	}

	/** Asks for the range beside it, by a share of the span, but not for the future. */
	function move(share) {
		const span = toMs - fromMs;
		const to = Math.min(toMs + share * span, Math.max(toMs, Date.now()));
		zoom(to - span, to);
	}

	return {node: h('figure.chart', h('div.row.apart', readout, zoomButtons), stage, legend), show};
}

/** A small line of values (null for a gap) at equal distances, from 0, without axes. */
export function sparkline(values, label) {
	const [low, high] = extent([...values, 0]);
	const place = ([i, value]) => `${i},${(21 - ((value - low) / (high - low || 1)) * 18).toFixed(1)}`;
	const viewBox = `0 0 ${Math.max(values.length - 1, 1)} 24`;
	return svg('svg.sparkline', {role: 'img', 'aria-label': label, preserveAspectRatio: 'none', viewBox},
		// The last point twice makes a dot of a single one.
		runs([...values.entries()], 1).map((run) => svg('path', {d: `M${[...run, run.at(-1)].map(place).join('L')}`})));
}
