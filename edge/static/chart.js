/** Charts in SVG: lines over time with gaps and min/max bands, and sparklines. Colours are CSS's. */

import {h, replace, setAttribute, setText, svg} from './dom.js';
import {isKnown, number, power, withUnit} from './format.js';
import {LOCALE, t} from './text.js';

const HEIGHT_PX = 260;
const MARGIN_PX = {left: 50, right: 14, top: 14, bottom: 24};
const BOTTOM_PX = HEIGHT_PX - MARGIN_PX.bottom;
const LEAST_DRAG_PX = 8;
const LEAST_SPAN_MS = 10_000;
/** What is further apart than so many steps is a gap. */
export const GAP_STEPS = 1.75;
const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;
const MONTH_MS = 30.5 * DAY_MS;

/** Distances that ticks may have. */
const TICK_STEPS_MS = [
  [SECOND_MS, [1, 5, 15, 30]], [MINUTE_MS, [1, 5, 15, 30]], [HOUR_MS, [1, 3, 6, 12]],
  [DAY_MS, [1, 2, 5, 10]], [MONTH_MS, [1, 3, 6, 12]],
].flatMap(([unitMs, counts]) => counts.map((n) => n * unitMs));

const DAY = {day: 'numeric', month: 'short'};
const MONTH = {month: 'short', year: 'numeric'};
const MINUTE = {hour: '2-digit', minute: '2-digit'};
const SECOND = {...MINUTE, second: '2-digit'};
const DAY_MINUTE = {...DAY, ...MINUTE};
const DAY_SECOND = {...DAY, ...SECOND};
const DAY_YEAR = {...DAY, year: 'numeric'};
const formats = new Map();
let charts = 0;

/** A local time with the given parts. */
function timeText(ms, parts) {
  if (!formats.has(parts)) formats.set(parts, new Intl.DateTimeFormat(LOCALE, parts));
  return formats.get(parts).format(ms);
}

/** A moment as the read-out says it: with seconds or the year where they tell moments apart. */
function momentText(ms, spanMs) {
  if (spanMs > 6 * MONTH_MS) return timeText(ms, DAY_YEAR);
  return timeText(ms, spanMs < 6 * HOUR_MS ? DAY_SECOND : DAY_MINUTE);
}

/** What a tick is called: the part of the time that changes from one to the next. */
function tickText(ms, stepMs) {
  if (stepMs >= MONTH_MS) return timeText(ms, MONTH);
  if (stepMs >= DAY_MS || new Date(ms).setHours(0, 0, 0, 0) === ms) return timeText(ms, DAY);
  return timeText(ms, stepMs < MINUTE_MS ? SECOND : MINUTE);
}

/** Runs of [x, value…] rows without gaps: null, or more than GAP_STEPS steps. */
function runs(rows, step) {
  const found = [];
  let last = null;
  for (const row of rows) {
    const known = isKnown(row[1]);
    if (known && last !== null && row[0] - last <= GAP_STEPS * step) found.at(-1).push(row);
    else if (known) found.push([row]);
    last = known ? row[0] : null;
  }
  return found;
}

/** The usual distance of rows, ms: the median; 0 of fewer than two. */
function usualStep(rows) {
  const distances = rows.slice(1).map((row, i) => row[0] - rows[i][0]).sort((a, b) => a - b);
  return distances[distances.length >> 1] ?? 0;
}

/** About `count` round values from low to high, and how many decimals they need. */
function valueTicks(low, high, count) {
  const rough = (high - low) / count;
  const magnitude = Math.floor(Math.log10(rough));
  const factor = [1, 2, 5, 10].find((one) => one * 10 ** magnitude >= rough);
  const step = factor * 10 ** magnitude;
  const first = Math.ceil(low / step - 1e-9);
  const length = Math.floor(high / step + 1e-9) - first + 1;
  const digits = Math.max(0, -magnitude - (factor === 10 ? 1 : 0));
  return {values: Array.from({length}, (_, i) => (first + i) * step), digits};
}

/** At most about `count` round moments of local time within from..to, unix ms. */
function timeTicks(fromMs, toMs, count) {
  const least = (toMs - fromMs) / Math.max(count, 1);
  const stepMs = TICK_STEPS_MS.find((ms) => ms >= least) ?? TICK_STEPS_MS.at(-1);
  const ticks = [];
  for (let dayMs = new Date(fromMs).setHours(0, 0, 0, 0); dayMs <= toMs;) {
    const day = new Date(dayMs);
    const nextMs = new Date(dayMs).setDate(day.getDate() + 1);
    const first = dayMs + Math.ceil(Math.max(fromMs - dayMs, 0) / stepMs) * stepMs;
    if (stepMs >= DAY_MS) {
      if (dayMs >= fromMs && isTickDay(day, stepMs)) ticks.push(dayMs);
    } else for (let ms = first; ms < nextMs && ms <= toMs; ms += stepMs) ticks.push(ms);
    dayMs = nextMs;
  }
  return {ticks, stepMs};
}

/** Days are counted from each month's first, which always has its tick. */
function isTickDay(day, stepMs) {
  if (stepMs >= MONTH_MS) return day.getDate() === 1 && day.getMonth() % (stepMs / MONTH_MS) === 0;
  const n = stepMs / DAY_MS;
  return (day.getDate() - 1) % n === 0 && day.getDate() + n / 2 <= 32;
}

/** Least and largest known value of series and their bands; null when nothing is known. */
function extent(series) {
  const rows = series.flatMap(({points, band = []}) => [...points, ...band]);
  const known = rows.flatMap(([, ...values]) => values).filter(isKnown);
  if (!known.length) return null;
  return known.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [known[0], known[0]]);
}

/** What the value axis spans: 0, all values, and a little room beyond them. */
function valueRange(series) {
  const [low, high] = extent(series) ?? [0, 1];
  const room = (Math.max(high, 0) - Math.min(low, 0) || 1) * 0.06;
  if (low === 0 && high === 0) return [0, 1];
  return [low < 0 ? low - room : 0, high > 0 ? high + room : 0];
}

/** What the time axis spans, unix ms: as given, or as the points lie. */
function timeRange({range, series}) {
  if (range) return range;
  const ends = series.flatMap(({points}) => (points.length ? [points[0][0], points.at(-1)[0]] : []));
  const [from, to] = ends.length ? [Math.min(...ends), Math.max(...ends)] : [Date.now() - HOUR_MS, Date.now()];
  return to > from ? [from, to] : [from - MINUTE_MS, to + MINUTE_MS];
}

function iconButton(icon, label, onclick) {
  return h('button', {type: 'button', class: 'button quiet small', title: label, 'aria-label': label, onclick}, icon);
}

class Chart {
  constructor(options) {
    this.at = null;
    this.drag = null;
    this.clip = `chart-${(charts += 1)}`;
    this.readout = h('p', {class: 'chart-readout'});
    this.legend = h('ul', {class: 'chart-legend'});
    this.drawing = svg('svg', {'aria-hidden': 'true', height: HEIGHT_PX, width: '100%'});
    this.stage = h('div', {...this.listeners(), class: 'chart-stage', tabindex: 0}, this.drawing);
    const bar = h('div', {class: 'chart-bar'}, this.readout, options.onZoom && this.zoomButtons());
    this.node = h('figure', {class: 'chart'}, bar, this.stage, this.legend);
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.stage);
    this.update(options);
  }

  zoomButtons() {
    return h('div', {class: 'chart-zoom', role: 'group', 'aria-label': t('chart.zoom')},
      iconButton('←', t('chart.earlier'), () => this.move(-0.5)),
      iconButton('→', t('chart.later'), () => this.move(0.5)),
      iconButton('+', t('chart.zoomIn'), () => this.scale(0.5)),
      iconButton('−', t('chart.zoomOut'), () => this.scale(2)));
  }

  listeners() {
    return {
      onpointerdown: (event) => this.press(event),
      onpointermove: (event) => this.hover(event),
      onpointerup: (event) => this.release(event),
      onpointercancel: () => this.letGo(),
      onpointerleave: () => this.point(null),
      onblur: () => this.point(null),
      onkeydown: (event) => this.key(event),
    };
  }

  update(options) {
    this.options = {...this.options, ...options};
    const {series} = this.options;
    this.values = series.map(({points}) => new Map(points));
    this.bands = series.map(({band = []}) => new Map(band.map(([ms, ...spread]) => [ms, spread])));
    this.moments = [...new Set(this.values.flatMap((known) => [...known.keys()]))].sort((a, b) => a - b);
    [this.fromMs, this.toMs] = timeRange(this.options);
    this.spanMs = this.toMs - this.fromMs;
    [this.low, this.high] = valueRange(series);
    if (!this.moments.includes(this.at)) this.at = null;
    this.legend.hidden = series.length < 2;
    replace(this.legend, series.map(({label, className = ''}) =>
      h('li', {}, h('span', {class: `swatch ${className}`}), label)));
    this.describe();
    this.draw();
  }

  destroy() {
    this.resized.disconnect();
    this.node.remove();
  }

  // --- Where things are, px

  x(ms) {
    return MARGIN_PX.left + ((ms - this.fromMs) / this.spanMs) * this.innerWidth;
  }

  y(value) {
    return MARGIN_PX.top + ((this.high - value) / (this.high - this.low)) * (BOTTOM_PX - MARGIN_PX.top);
  }

  momentOf(event) {
    const x = event.clientX - this.stage.getBoundingClientRect().left - MARGIN_PX.left;
    return this.fromMs + Math.min(Math.max(x / this.innerWidth, 0), 1) * this.spanMs;
  }

  // --- The picture

  draw() {
    this.innerWidth = this.stage.clientWidth - MARGIN_PX.left - MARGIN_PX.right;
    if (this.innerWidth < 50) return;
    const inner = {
      x: MARGIN_PX.left, y: MARGIN_PX.top, width: this.innerWidth, height: BOTTOM_PX - MARGIN_PX.top,
    };
    this.overlay = svg('g');
    const middle = {x: MARGIN_PX.left + this.innerWidth / 2, y: HEIGHT_PX / 2, class: 'chart-empty'};
    replace(this.drawing,
      svg('clipPath', {id: this.clip}, svg('rect', inner)),
      this.valueAxis(), this.timeAxis(),
      svg('g', {'clip-path': `url(#${this.clip})`}, this.options.series.map((one) => this.line(one))),
      !this.moments.length && svg('text', middle, t('chart.empty')),
      this.overlay);
    this.drawOverlay();
  }

  valueAxis() {
    const {values, digits} = valueTicks(this.low, this.high, 5);
    const [x1, x2] = [MARGIN_PX.left, MARGIN_PX.left + this.innerWidth];
    return svg('g', {class: 'chart-axis'}, values.map((value) => {
      const y = this.y(value);
      return [
        svg('line', {x1, x2, y1: y, y2: y, class: Math.abs(value) < 1e-9 && 'zero'}),
        svg('text', {x: x1 - 6, y, dy: '0.32em', class: 'value'}, number(value, digits)),
      ];
    }), svg('text', {x: 0, y: 9}, this.options.unit));
  }

  timeAxis() {
    const {ticks, stepMs} = timeTicks(this.fromMs, this.toMs, Math.floor(this.innerWidth / 80));
    return svg('g', {class: 'chart-axis'}, ticks.map((ms) => {
      const x = this.x(ms);
      const nearEnd = x > MARGIN_PX.left + this.innerWidth - 20;
      return [
        svg('line', {x1: x, x2: x, y1: BOTTOM_PX, y2: BOTTOM_PX + 4}),
        svg('text', {x, y: HEIGHT_PX - 6, class: nearEnd ? 'value' : 'time'}, tickText(ms, stepMs)),
      ];
    }));
  }

  line({className = '', points, band = []}) {
    const stepMs = this.options.stepMs ?? usualStep(points);
    const place = ([ms, value]) => `${this.x(ms).toFixed(1)},${this.y(value).toFixed(1)}`;
    const around = (run) => [...run.map(([ms, , high]) => [ms, high]), ...run.toReversed()];
    return svg('g', {class: `series ${className}`},
      runs(band, stepMs).map((run) => svg('path', {class: 'band', d: `M${around(run).map(place).join('L')}Z`})),
      runs(points, stepMs).map((run) => (run.length === 1
        ? svg('circle', {cx: this.x(run[0][0]), cy: this.y(run[0][1]), r: 2})
        : svg('path', {class: 'line', d: `M${run.map(place).join('L')}`}))));
  }

  /** The cross-hair, and what is being dragged over. */
  drawOverlay() {
    if (!this.overlay) return;
    const height = BOTTOM_PX - MARGIN_PX.top;
    const marks = [];
    if (this.drag) {
      const [from, to] = [this.x(this.drag.from), this.x(this.drag.to)].sort((a, b) => a - b);
      marks.push(svg('rect', {class: 'chart-drag', x: from, y: MARGIN_PX.top, width: to - from, height}));
    }
    if (this.at !== null) {
      const x = this.x(this.at);
      marks.push(svg('line', {class: 'chart-cursor', x1: x, x2: x, y1: MARGIN_PX.top, y2: BOTTOM_PX}));
      this.options.series.forEach(({className = ''}, i) => {
        const value = this.values[i].get(this.at);
        if (!isKnown(value)) return;
        marks.push(svg('g', {class: `series ${className}`}, svg('circle', {cx: x, cy: this.y(value), r: 4})));
      });
    }
    replace(this.overlay, marks);
  }

  // --- What is said of it

  /** A moment in words: each series with its value and its band. */
  textAt(ms) {
    const {series, unit} = this.options;
    const values = series.map(({label}, i) => {
      const [min, max] = this.bands[i].get(ms) ?? [];
      const spread = isKnown(min) ? ` (${t('chart.band', {min: power(min), max: power(max)})})` : '';
      return `${label} ${withUnit(power(this.values[i].get(ms)), unit)}${spread}`;
    });
    return `${momentText(ms, this.spanMs)}: ${values.join(', ')}`;
  }

  /** The text in place of the picture: its range, and of each series last, least and largest. */
  describe() {
    const {series, unit, label} = this.options;
    const said = series.map((one) => {
      const spread = extent([one]);
      if (!spread) return `${one.label}: ${t('chart.empty')}`;
      const last = one.points.findLast(([, value]) => isKnown(value))?.[1];
      const [min, max, lastOne] = [...spread, last].map((value) => withUnit(power(value), unit));
      return `${one.label}: ${t('chart.summary', {last: lastOne, min, max})}`;
    });
    const [from, to] = [this.fromMs, this.toMs].map((ms) => momentText(ms, this.spanMs));
    this.stage.setAttribute('aria-label', [label, t('chart.range', {from, to}), ...said].join('. '));
    this.say();
  }

  say() {
    const {moments, stage} = this;
    const last = moments.length - 1;
    const hint = moments.length ? t(this.options.onZoom ? 'chart.hint' : 'chart.hintRead') : '';
    setText(this.readout, this.at === null ? hint : this.textAt(this.at));
    this.readout.classList.toggle('hint', this.at === null);
    const slider = {
      valuemin: 0,
      valuemax: last,
      valuenow: this.at === null ? last : moments.indexOf(this.at),
      valuetext: last >= 0 && this.textAt(this.at ?? moments[last]),
    };
    setAttribute(stage, 'role', last >= 0 ? 'slider' : 'img');
    for (const [name, value] of Object.entries(slider)) setAttribute(stage, `aria-${name}`, last >= 0 && `${value}`);
  }

  // --- Pointer and keys

  point(ms) {
    if (ms === this.at && !this.drag) return;
    this.at = ms;
    this.say();
    this.drawOverlay();
  }

  nearest(ms) {
    const shown = this.moments.filter((moment) => moment >= this.fromMs && moment <= this.toMs);
    return shown.reduce((best, one) => (best !== null && Math.abs(best - ms) < Math.abs(one - ms) ? best : one), null);
  }

  press(event) {
    if (!this.options.onZoom || event.button !== 0) return;
    const from = this.momentOf(event);
    this.drag = {from, to: from, x: event.clientX};
    this.stage.setPointerCapture(event.pointerId);
  }

  hover(event) {
    if (this.drag) this.drag.to = this.momentOf(event);
    this.point(this.nearest(this.momentOf(event)));
  }

  release(event) {
    const {drag} = this;
    this.letGo();
    if (!drag || Math.abs(event.clientX - drag.x) < LEAST_DRAG_PX) return;
    this.zoom(Math.min(drag.from, drag.to), Math.max(drag.from, drag.to));
  }

  letGo() {
    this.drag = null;
    this.drawOverlay();
  }

  key(event) {
    const last = this.moments.length - 1;
    const at = this.at === null ? last + 1 : this.moments.indexOf(this.at);
    const page = Math.ceil(this.moments.length / 10);
    const steps = {
      ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1,
      PageDown: at - page, PageUp: at + page, Home: 0, End: last,
    };
    const scales = this.options.onZoom ? {'+': 0.5, '=': 0.5, '-': 2} : {};
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps && last >= 0) this.point(this.moments[Math.min(Math.max(steps[event.key], 0), last)]);
    else if (event.key in scales) this.scale(scales[event.key]);
    else if (event.key === 'Escape') this.point(null);
    else return;
    event.preventDefault();
  }

  // --- Zoom: the owner is asked for another range

  zoom(fromMs, toMs) {
    const lacking = Math.max(0, LEAST_SPAN_MS - (toMs - fromMs)) / 2;
    this.options.onZoom(Math.round(fromMs - lacking), Math.round(toMs + lacking));
  }

  /** Asks for `factor` times the span, around the cursor or the middle. */
  scale(factor) {
    const centre = this.at ?? (this.fromMs + this.toMs) / 2;
    this.zoom(centre - (centre - this.fromMs) * factor, centre + (this.toMs - centre) * factor);
  }

  /** Asks for the range beside it, by a share of the span, but not for the future. */
  move(share) {
    const to = Math.min(this.toMs + share * this.spanMs, Math.max(this.toMs, Date.now()));
    this.zoom(to - this.spanMs, to);
  }
}

/**
 * Makes a chart over time; gives {node, update(what changed of the options), destroy()}.
 *
 * series: {label, className, points: [[unixMs, value | null]…], band?: [[unixMs, min, max]…]}, in
 * order of time. unit: of all values. label: what the chart shows, in words. range: [fromMs, toMs],
 * by default what the points span. stepMs: distance of points, by default the usual one; what is
 * further apart is a gap. onZoom(fromMs, toMs): the user asks for another range; the owner updates.
 */
export function chart(options) {
  const made = new Chart(options);
  return {node: made.node, update: (changed) => made.update(changed), destroy: () => made.destroy()};
}

/** A small line of values (null for a gap) at equal distances, without axes; 0 is its least span. */
export function sparkline(values, label) {
  const known = values.filter(isKnown);
  const [low, high] = [Math.min(...known, 0), Math.max(...known, 0)];
  const place = ([i, value]) => `${i},${(21 - ((value - low) / (high - low || 1)) * 18).toFixed(1)}`;
  const viewBox = `0 0 ${Math.max(values.length - 1, 1)} 24`;
  return svg('svg', {class: 'sparkline', role: 'img', 'aria-label': label, preserveAspectRatio: 'none', viewBox},
    runs(values.map((value, i) => [i, value]), 1).map((run) => {
      const ends = run.length > 1 ? run : [run[0], [run[0][0] + 0.3, run[0][1]]];
      return svg('path', {d: `M${ends.map(place).join('L')}`});
    }));
}
