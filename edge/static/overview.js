/** The first page: what is free for the cars, why, and what goes on at the site. */

import {problems} from './alerts.js';
import {get, repeat} from './api.js';
import {chart} from './chart.js';
import {h, keyedList, replace, setAttribute, setText} from './dom.js';
import {UNKNOWN, ago, allowance, isKnown, parseTime, power, withUnit} from './format.js';
import {ageOf, freshness, loadAge, loadIsLive, store, subscribe} from './live.js';
import {LOOKS, card, chip, empty, icon, measure, showFailed, spinner} from './parts.js';
import {t} from './text.js';

const CHART_EVERY_MS = 60_000;
const MOST_SOURCES = 5;
const LEAST_KW = 1e-9;

export function page() {
  const hero = availableCard();
  const flows = flowsCard();
  const day = dayCard();
  const trouble = problems();
  const update = (changes) => {
    hero.update();
    flows.update();
    if (changes.connection && store.connected) day.again();
  };
  update({});
  const unsubscribe = subscribe(update);
  const heading = h('h1', {class: 'visually-hidden'}, t('overview.title'));
  const node = h('div', {class: 'stack'}, heading, hero.node, flows.node, day.node, trouble.node);
  const destroy = () => [unsubscribe, day.stop, trouble.destroy].forEach((end) => end());
  return {node, title: t('overview.title'), destroy};
}

// --- The one big number ---

function availableCard() {
  const figure = measure();
  const sign = chip('pending', t('live.connecting'));
  const why = h('span');
  const old = h('p', {class: 'hero-old', hidden: true});
  const reasons = h('ul', {class: 'reasons'});
  const listReasons = keyedList(reasons, (reason) => reason, reasonRow);
  const number = h('p', {class: 'hero-number'}, figure.node);
  const node = h(
    'section',
    {class: 'card hero', 'aria-labelledby': 'available'},
    h('div', {class: 'hero-figure'}, h('h2', {id: 'available'}, t('overview.available')), number),
    h('div', {class: 'hero-why'}, h('p', {class: 'row'}, sign.node, why), old, reasons),
  );
  const update = () => {
    const load = store.load;
    const live = loadIsLive();
    figure.update(allowance(load?.availableCapacity), 'kW');
    node.classList.toggle('stale', load !== null && !live);
    old.hidden = load === null || live;
    setText(old, load === null ? '' : t('overview.stale', {age: ago(loadAge())}));
    listReasons(reasonsOf(load));
    if (load === null) setText(why, t('overview.waiting'));
    else showQuality(load.quality, live);
  };
  const showQuality = (quality, live) => {
    sign.update(live ? quality : 'stale', live ? t(`quality.${quality}`) : t('freshness.stale'));
    setText(why, live ? t(`quality.${quality}.why`) : '');
  };
  return {node, update};
}

/** Why the number is what it is; a large overload has to stand beside the 0 that it makes. */
function reasonsOf(load) {
  if (load === null) return [];
  const overload = load.overload > 0 && t('flow.overload', {power: withUnit(power(load.overload), 'kW')});
  return [overload, ...load.reasons].filter(Boolean);
}

function reasonRow(reason) {
  return {node: h('li', null, icon('bad'), h('span', null, reason)), update: () => {}};
}

// --- Grid capacity + PV production - building consumption = free for cars ---

function flowsCard() {
  const grid = term('grid-term', 'grid', t('flow.grid'));
  const pv = term('pv', 'sun', t('flow.pv'));
  const building = term('building', 'building', t('flow.building'));
  const free = term('free', 'car', t('flow.free'));
  const bars = budgetBars();
  const equation = h(
    'div',
    {class: 'equation'},
    grid.node, sign('+', 'plus'), pv.node, sign('−', 'minus'), building.node, sign('=', 'equals'), free.node,
  );
  const node = card(t('overview.flows'), {class: 'flows'}, equation, bars.node);
  const update = () => {
    const load = store.load ?? {};
    const meters = [...store.meters.values()];
    const consumers = meters.filter(({meterType}) => meterType === 'grid' || meterType === 'building');
    const solars = meters.filter(({meterType}) => meterType === 'solar');
    node.classList.toggle('stale', store.load !== null && !loadIsLive());
    grid.update(power(load.gridCapacity), t('flow.grid.note'), []);
    pv.update(power(load.pvProduction), solars.length ? '' : t('flow.noMeters.pv'), solars);
    building.update(power(load.buildingConsumption), buildingNote(load, consumers), consumers);
    free.update(allowance(load.availableCapacity), isCut(load) ? t('flow.free.cut') : '', []);
    bars.update(load);
  };
  return {node, update};
}

function sign(text, key) {
  const said = h('span', {class: 'visually-hidden'}, t(`flow.${key}`));
  return h('span', {class: 'sign'}, h('span', {'aria-hidden': 'true'}, text), said);
}

/** Whether the equation does not hold since the consumption is not known. */
function isCut({quality}) {
  return quality === 'failsafe' || quality === 'unmetered';
}

function buildingNote(load, consumers) {
  if (store.load === null) return '';
  if (consumers.length === 0) return t('flow.noMeters.building');
  if (isCut(load)) return t('flow.unknown');
  const missing = consumers.some((meter) => freshness(meter) !== 'live');
  return load.quality === 'degraded' && missing ? t('flow.worstCase') : '';
}

/** One term of the equation and the meters it is made of. */
function term(kind, iconName, label) {
  const value = measure();
  const noteNode = h('p', {class: 'term-note'});
  const list = h('ul', {class: 'sources'});
  const more = h('a', {href: '#/meters', class: 'term-note', hidden: true});
  const listSources = keyedList(list, (meter) => meter.id, sourceRow);
  const name = h('p', {class: 'term-name'}, icon(iconName), label);
  const node = h('div', {class: `term ${kind}`}, name, h('p', {class: 'term-value'}, value.node), noteNode, list, more);
  const update = (text, note, meters) => {
    value.update(text, 'kW');
    setText(noteNode, note);
    listSources(meters.slice(0, MOST_SOURCES));
    const rest = meters.length - MOST_SOURCES;
    more.hidden = rest <= 0;
    setText(more, t('flow.more', {n: rest}));
  };
  return {node, update};
}

function sourceRow({id}) {
  const name = h('span');
  const mark = h('span', {class: 'mark'});
  const value = measure();
  const age = h('span', {class: 'muted'});
  const link = h('a', {href: `#/meters/${encodeURIComponent(id)}`}, mark, name);
  const node = h('li', null, link, h('span', null, value.node, age));
  let shown = null;
  const update = (meter) => {
    const look = freshness(meter);
    setText(name, meter.name);
    value.update(power(meter.currentPower), 'kW');
    node.classList.toggle('stale', look !== 'live');
    setText(age, look === 'live' || look === 'none' ? '' : ` · ${ago(ageOf(meter))}`);
    if (look === shown) return;
    shown = look;
    replace(mark, freshnessMark(look));
  };
  return {node, update};
}

function freshnessMark(look) {
  const [kind, iconName] = LOOKS[look];
  const image = icon(iconName);
  image.classList.add(kind);
  return [image, h('span', {class: 'visually-hidden'}, t(`freshness.${look}`))];
}

// --- Supply and use as bars on one scale ---

const BAR_PARTS = ['grid', 'pv', 'overload', 'building', 'free', 'unknown'];

function budgetBars() {
  const parts = Object.fromEntries(BAR_PARTS.map((name) => [name, h('span', {class: `of-${name}`})]));
  const supply = h('div', {class: 'bar'}, parts.grid, parts.pv, parts.overload);
  const use = h('div', {class: 'bar'}, parts.building, parts.free, parts.unknown);
  const label = (key) => h('span', {class: 'label'}, t(`flow.${key}`));
  const node = h('div', {class: 'bars', role: 'img'}, label('supply'), supply, label('use'), use);
  const update = (load) => {
    const sizes = sizesOf(load);
    const supplied = sizes.grid + sizes.pv + sizes.overload;
    const total = Math.max(supplied, sizes.building + sizes.free + sizes.unknown, LEAST_KW);
    for (const [name, part] of Object.entries(parts)) part.style.width = `${(100 * sizes[name]) / total}%`;
    setAttribute(node, 'aria-label', barText(load));
  };
  return {node, update};
}

/** Lengths of the parts of both bars, kW; what is below zero has none. */
function sizesOf(load) {
  const size = (kw) => (isKnown(kw) ? Math.max(0, kw) : 0);
  const grid = size(load.gridCapacity);
  const pv = size(load.pvProduction);
  const free = size(load.availableCapacity);
  const unknown = isCut(load) ? Math.max(0, grid + pv - free) : 0;
  return {grid, pv, overload: size(load.overload), building: size(load.buildingConsumption), free, unknown};
}

function barText(load) {
  const said = (text) => (text === UNKNOWN ? t('value.unknown') : withUnit(text, 'kW'));
  return t('flow.bar', {
    grid: said(power(load.gridCapacity)),
    pv: said(power(load.pvProduction)),
    building: said(power(load.buildingConsumption)),
    free: said(allowance(load.availableCapacity)),
  });
}

// --- The last 24 hours ---

function dayCard() {
  const place = h('div', null, spinner());
  const node = card(t('day.title'), {}, place);
  let drawing = null;
  const draw = (curve) => {
    if (drawing) {
      drawing.update(dayChart(curve));
      return;
    }
    drawing = chart(dayChart(curve));
    replace(place, drawing.node);
  };
  const forget = () => {
    drawing?.destroy();
    drawing = null;
  };
  const load = async () => {
    try {
      const curve = await get('/api/analytics/power');
      if (hasValues(curve)) {
        draw(curve);
        return;
      }
      forget();
      replace(place, empty(t('day.empty')));
    } catch (error) {
      if (drawing !== null && !store.connected) return;
      forget();
      showFailed(place, error, () => loop.again());
    }
  };
  const loop = repeat(load, CHART_EVERY_MS);
  const stop = () => {
    loop.stop();
    forget();
  };
  return {node, again: loop.again, stop};
}

function hasValues(curve) {
  return [curve.available, curve.consumption, curve.production].some((values) => values.some(isKnown));
}

/** What the chart takes, of the answer of /api/analytics/power; a value stands in its step's middle. */
function dayChart(curve) {
  const from = parseTime(curve.from);
  const middle = (index) => from + (index + 0.5) * curve.step * 1000;
  const series = ['available', 'consumption', 'production'].map((name) => ({
    label: t(`day.${name}`),
    className: `series-${name}`,
    points: curve[name].map((value, index) => [middle(index), value]),
  }));
  return {series, unit: 'kW', label: t('day.label')};
}
