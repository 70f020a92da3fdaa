/** The history of a meter: a chart over a range that can be zoomed, and its download as CSV. */

import {get, asLink} from './api.js';
import {chart, GAP_STEPS} from './chart.js';
import {h, replace, setText} from './dom.js';
import {bytes, isKnown, parseTime} from './format.js';
import {card, failed, icon, spinner} from './parts.js';
import {t} from './text.js';

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const RANGES = {'1h': HOUR_MS, '24h': DAY_MS, '7d': 7 * DAY_MS, '31d': 31 * DAY_MS, '1y': 366 * DAY_MS};
const RESOLUTIONS = ['auto', 'raw', 'hourly', 'daily'];
/** Up to these spans the automatic choice is the finer resolution. */
const LONGEST_MS = {raw: 36 * HOUR_MS, hourly: 45 * DAY_MS};
/** Longer spans the API does not give in one answer. */
const MOST_MS = {raw: 31 * DAY_MS, hourly: 400 * DAY_MS};
/** How often a meter that speaks by itself is taken to do so. */
const SPOKEN_MS = 1000;
const ROLLUP_MS = {hourly: HOUR_MS, daily: DAY_MS};
const MOST_READINGS = 800;
/** So many readings are shown one by one; of more, the mean of each step. */
const MOST_STEPS = 400;
const STEPS_S = [10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800];
const MOST_ROWS = 10_000;
const LEAST_REFRESH_MS = 10_000;
const MOST_REFRESH_MS = 300_000;

/** Makes the card; gives {node, destroy()}. meter: with id, name, pollInterval and staleAfter (ms). */
export function historyCard(meter) {
  return new HistoryCard(meter);
}

class HistoryCard {
  constructor(meter) {
    this.meter = meter;
    this.path = `/api/energy-meters/${encodeURIComponent(meter.id)}/history`;
    this.resolution = 'auto';
    this.follow('24h');
    this.state = h('div', {class: 'chart-state'});
    this.chart = chart({
      series: [], unit: 'kW', label: t('history.label', {name: meter.name}),
      onZoom: (fromMs, toMs) => this.look(fromMs, toMs),
    });
    this.note = h('p', {class: 'hint'});
    this.node = card(t('history.title'), {tools: [this.rangeButtons(), this.resolutionSelect()]},
      h('div', {class: 'chart-frame'}, this.chart.node, this.state), h('div', {class: 'stack-small'}, this.note, this.download()));
    this.load();
  }

  destroy() {
    clearTimeout(this.timer);
    this.asked?.abort();
    this.asked = null;
    this.saving?.abort();
    this.chart.destroy();
  }

  rangeButtons() {
    this.buttons = Object.keys(RANGES).map((name) => h('button', {
      type: 'button', value: name, 'aria-pressed': String(name === this.range), onclick: () => this.choose(name),
    }, t(`history.${name}`)));
    return h('div', {class: 'segmented', role: 'group', 'aria-label': t('history.range')}, this.buttons);
  }

  resolutionSelect() {
    const choose = (event) => {
      this.resolution = event.target.value;
      this.load();
    };
    return h('label', {class: 'inline'}, t('history.resolution'), h('select', {onchange: choose},
      RESOLUTIONS.map((name) => h('option', {value: name}, t(`history.${name}`)))));
  }

  // --- The range

  follow(name) {
    this.range = name;
    this.toMs = Date.now();
    this.fromMs = this.toMs - RANGES[name];
  }

  choose(name) {
    this.follow(name);
    this.load();
  }

  /** Shows a range that was zoomed to; it stands still. */
  look(fromMs, toMs) {
    this.range = null;
    [this.fromMs, this.toMs] = [fromMs, toMs];
    this.load();
  }

  /** The resolution to ask for; of raw readings also the length of a step, s, if they are many. */
  detail() {
    const span = this.toMs - this.fromMs;
    const fitting = ['raw', 'hourly'].find((name) => span <= LONGEST_MS[name]) ?? 'daily';
    const tooFine = this.resolution === 'auto' || span > MOST_MS[this.resolution];
    const resolution = tooFine ? fitting : this.resolution;
    if (resolution !== 'raw') return {resolution};
    const pollMs = this.meter.pollInterval ?? SPOKEN_MS;
    if (span / pollMs <= MOST_READINGS) return {resolution};
    const leastS = Math.max(span / MOST_STEPS, pollMs) / 1000;
    return {resolution, step: STEPS_S.find((step) => step >= leastS)};
  }

  // --- The chart

  /** Asks for what is to be shown. quietly: what is shown stays meanwhile, as for a refresh. */
  async load(quietly = false) {
    clearTimeout(this.timer);
    this.asked?.abort();
    const asked = new AbortController();
    this.asked = asked;
    if (this.range) this.follow(this.range);
    const {fromMs, toMs} = this;
    const detail = this.detail();
    for (const button of this.buttons) button.setAttribute('aria-pressed', String(button.value === this.range));
    if (!quietly) replace(this.state, spinner(t('history.loading')));
    try {
      const rows = await get(this.path, {from: fromMs, to: toMs, ...detail, limit: MOST_ROWS}, {signal: asked.signal});
      if (asked === this.asked) this.show(rows, detail, fromMs, toMs);
    } catch (error) {
      if (asked === this.asked) replace(this.state, failed(error, () => this.load()));
    }
    if (asked === this.asked) this.keepUp(detail);
  }

  show(rows, {resolution, step}, fromMs, toMs) {
    const isReading = resolution === 'raw' && !step;
    const middle = ({start, end, timestamp}) => (isReading ? parseTime(timestamp) : (parseTime(start) + parseTime(end)) / 2);
    const stepMs = ROLLUP_MS[resolution] ?? (step ?? 0) * 1000;
    // Readings are a gap apart when the meter was stale in between.
    const gapMs = resolution === 'raw' ? Math.max(stepMs, (this.meter.staleAfter + stepMs) / GAP_STEPS) : stepMs;
    const known = rows.filter((row) => isKnown(row.meanPower));
    this.chart.update({
      range: [fromMs, toMs], stepMs: gapMs,
      series: [{
        label: t(isReading ? 'quantity.currentPower' : 'history.mean'), className: 'series-value',
        points: rows.map((row) => [middle(row), isReading ? row.currentPower : row.meanPower]),
        band: known.map((row) => [middle(row), row.minPower, row.maxPower]),
      }],
    });
    replace(this.state);
    const notYet = resolution !== 'raw' && !known.length;
    setText(this.note, t(notYet ? 'history.notYet' : `history.${isReading ? 'reading' : resolution}.note`, {step}));
  }

  /** Asks again after a while, as long as the range follows the time. */
  keepUp({resolution, step}) {
    if (!this.range) return;
    const everyMs = Math.min(Math.max((step ?? (resolution === 'raw' ? 5 : 3600)) * 2000, LEAST_REFRESH_MS), MOST_REFRESH_MS);
    this.timer = setTimeout(() => (document.hidden ? this.keepUp({resolution, step}) : this.load(true)), everyMs);
  }

  // --- The download

  download() {
    this.progress = h('p', {class: 'hint', role: 'status'});
    const label = [icon('download'), t('history.download')];
    this.save = h('button', {type: 'button', class: 'button small', onclick: () => this.downloadOrCancel(label)}, label);
    const hint = h('span', {class: 'hint'}, t('history.downloadHint'));
    return h('div', {class: 'stack-small'}, h('div', {class: 'row'}, this.save, hint), this.progress);
  }

  async downloadOrCancel(label) {
    if (this.saving) {
      this.saving.abort();
      return;
    }
    this.saving = new AbortController();
    replace(this.save, h('span', {class: 'spinner', 'aria-hidden': 'true'}), t('form.cancel'));
    try {
      await this.fetchCsv(this.saving.signal);
    } catch (error) {
      const cancelled = this.saving.signal.aborted;
      setText(this.progress, cancelled ? t('history.cancelled') : error.message || t('error.unreachable'));
    }
    this.saving = null;
    replace(this.save, label);
  }

  /** Fetches the range as CSV; the browser keeps the growing file, not this page. */
  async fetchCsv(signal) {
    const {resolution} = this.detail();
    const link = asLink(this.path, {from: this.fromMs, to: this.toMs, resolution});
    const response = await fetch(link, {headers: {Accept: 'text/csv'}, signal, cache: 'no-store'});
    if (!response.ok) throw new Error((await response.json()).error);
    let length = 0;
    const count = new TransformStream({
      transform: (chunk, controller) => {
        length += chunk.byteLength;
        setText(this.progress, t('history.received', {size: bytes(length)}));
        controller.enqueue(chunk);
      },
    });
    const file = await new Response(response.body.pipeThrough(count)).blob();
    const day = new Date(this.fromMs).toISOString().slice(0, 10);
    saveFile(file, `${this.meter.name.replace(/[^\p{L}\p{N}]+/gu, '-')}-${resolution}-${day}.csv`);
    setText(this.progress, t('history.saved', {size: bytes(length)}));
  }
}

/** Hands a file to the browser's downloads. */
function saveFile(file, name) {
  const url = URL.createObjectURL(file);
  h('a', {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
