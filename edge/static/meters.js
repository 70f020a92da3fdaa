/** The page of all meters: a live table with sort and filter; cards on a narrow screen. */

import {adminLink, meterActions, readerNote} from './actions.js';
import {get, isAdmin} from './api.js';
import {sparkline} from './chart.js';
import {h, keyedList, replace, setAttribute, setText} from './dom.js';
import {ago, isKnown, power, quantity, withUnit} from './format.js';
import {ageOf, freshness, store, subscribe} from './live.js';
import {chip, empty, failed, icon, measure, spinner, TYPE_ICONS} from './parts.js';
import {t} from './text.js';

const HOUR_MS = 3_600_000;
const SPARK_HOURS = 24;
const SPARK_EVERY_MS = 10 * 60_000;

/** Columns and what they are sorted by; unknown comes last. */
const COLUMNS = {
  name: (meter) => meter.name.toLowerCase(),
  status: (meter) => ['error', 'offline', 'pending', 'online'].indexOf(meter.status),
  power: (meter) => meter.currentPower,
  energy: (meter) => meter.totalEnergy,
  age: (meter) => ageOf(meter),
};
const LARGEST_FIRST = new Set(['power', 'energy', 'age']);

/** What the user chose; kept while other pages are looked at. */
const view = {sort: 'name', descending: false, words: '', type: ''};

/** Makes the page. */
export function page() {
  const sparks = new Map();
  const list = new MeterTable(sparks);
  const body = h('div', {class: 'card'}, spinner());
  const trouble = h('div', {class: 'stack'});
  const node = h('div', {class: 'stack'},
    h('div', {class: 'page-head'},
      h('h1', null, t('meters.title')),
      adminLink('#/add', 'add', t('meters.add'), {class: 'primary'})),
    !isAdmin() && readerNote(), body, trouble);

  const show = (changes) => {
    if (store.load === null) return;
    if (changes.plan) loadSparks();
    const wanted = store.meters.size ? list.node : nothing;
    if (body.firstChild !== wanted) replace(body, wanted);
    list.update(changes.plan);
  };
  const nothing = empty(t('meters.empty'), adminLink('#/add', 'add', t('meters.addFirst'), {class: 'primary'}));

  async function loadSparks() {
    const to = Math.ceil(Date.now() / HOUR_MS) * HOUR_MS;
    const query = {from: to - SPARK_HOURS * HOUR_MS, to, resolution: 'hourly'};
    try {
      const energy = await get('/api/analytics/energy', query);
      sparks.clear();
      for (const meter of energy.meters) sparks.set(meter.meterId, meter.meanPower);
      list.drawSparks();
      replace(trouble);
    } catch (error) {
      replace(trouble, h('p', {class: 'muted'}, t('meters.noSparks')), failed(error, loadSparks));
    }
  }

  const timer = setInterval(() => document.hidden || loadSparks(), SPARK_EVERY_MS);
  const unsubscribe = subscribe(show);
  show({plan: true});
  return {
    node,
    title: t('meters.title'),
    destroy() {
      clearInterval(timer);
      unsubscribe();
    },
  };
}

class MeterTable {
  constructor(sparks) {
    this.sparks = sparks;
    this.rows = new Map();
    this.count = h('p', {class: 'muted', role: 'status'});
    this.heads = Object.keys(COLUMNS).map((name) => this.head(name));
    const tbody = h('tbody', {role: 'rowgroup'});
    this.table = h('table', {class: 'meters', role: 'table', 'aria-label': t('meters.title')},
      h('thead', {role: 'rowgroup'}, h('tr', {role: 'row'},
        this.heads.map(({node}) => node),
        h('th', {role: 'columnheader', scope: 'col'}, t('meters.spark')),
        h('th', {role: 'columnheader', scope: 'col', class: 'num'}, t('meters.actions')))),
      tbody);
    this.show = keyedList(tbody, (meter) => meter.id, (meter) => this.row(meter));
    this.node = h('div', {class: 'stack'}, this.tools(), h('div', {class: 'table-wrap'}, this.table), this.count);
  }

  head(name) {
    const button = h('button', {type: 'button', class: 'sort', onclick: () => this.sortBy(name)}, t(`meters.${name}`));
    const kind = name === 'power' || name === 'energy' ? 'num' : null;
    return {name, node: h('th', {role: 'columnheader', scope: 'col', class: kind}, button)};
  }

  tools() {
    const types = ['', ...Object.keys(TYPE_ICONS)];
    this.sorter = h('select', {onchange: (event) => this.sortBy(event.target.value)},
      Object.keys(COLUMNS).map((name) => h('option', {value: name}, t(`meters.${name}`))));
    return h('div', {class: 'filters', role: 'search'},
      h('label', null, t('meters.search'), h('input', {
        type: 'search', value: view.words, oninput: (event) => this.choose({words: event.target.value}),
      })),
      h('label', null, t('meters.type'), h('select', {onchange: (event) => this.choose({type: event.target.value})},
        types.map((type) => h('option', {value: type, selected: type === view.type}, t(type ? `type.${type}` : 'meters.allTypes'))))),
      h('label', {class: 'phone-only'}, t('meters.sortBy'), this.sorter));
  }

  choose(choice) {
    Object.assign(view, choice);
    this.update(true);
  }

  sortBy(name) {
    const again = view.sort === name;
    this.choose({sort: name, descending: again ? !view.descending : LARGEST_FIRST.has(name)});
  }

  /** Brings the table up to date. mayMove: rows may be put in another order at once. */
  update(mayMove) {
    // Rows do not run away from under a pointer or the keyboard.
    if (mayMove || !this.table.matches(':hover, :focus-within')) this.order = sorted([...store.meters.values()]);
    const words = view.words.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = this.order.map(({id}) => store.meters.get(id)).filter((meter) => meter && matches(meter, words));
    this.show(shown);
    for (const {name, node} of this.heads) {
      setAttribute(node, 'aria-sort', name === view.sort && (view.descending ? 'descending' : 'ascending'));
    }
    this.sorter.value = view.sort;
    setText(this.count, shown.length === store.meters.size ? '' : t('meters.shown', {n: shown.length, all: store.meters.size}));
  }

  row(meter) {
    const {id} = meter;
    const spark = h('span', {class: 'spark'});
    const made = meterRow(meter, spark);
    this.rows.set(id, {spark, name: meter.name});
    this.drawSpark(id);
    return made;
  }

  drawSparks() {
    for (const id of this.rows.keys()) this.drawSpark(id);
  }

  drawSpark(id) {
    const {spark, name} = this.rows.get(id);
    const values = this.sparks.get(id) ?? [];
    const known = values.filter(isKnown);
    if (!known.length) {
      setText(spark, this.sparks.size ? '–' : '');
      return;
    }
    const [min, max] = [Math.min(...known), Math.max(...known)].map((kw) => withUnit(power(kw), 'kW'));
    replace(spark, sparkline(values, t('meters.sparkLabel', {name, min, max})));
  }
}

/** One row: {node, update(meter)}. */
function meterRow(meter, spark) {
  const {id} = meter;
  const name = h('a', {href: `#/meters/${encodeURIComponent(id)}`});
  const about = h('span', {class: 'muted'});
  const status = chip(meter.status, '');
  const trouble = h('span', {class: 'row-trouble'});
  const [kw, kwh] = [measure(), measure()];
  const age = h('span');
  const actions = h('td', {role: 'cell', class: 'row-actions'});
  const cell = (column, extra, ...children) =>
    h('td', {role: 'cell', class: extra, dataset: {label: column && t(`meters.${column}`)}}, children);
  const node = h('tr', {role: 'row'},
    h('th', {role: 'rowheader', scope: 'row'},
      h('div', {class: 'meter-name'}, icon(TYPE_ICONS[meter.meterType]), h('div', null, name, about))),
    cell('status', '', status.node, trouble),
    cell('power', 'num', kw.node), cell('energy', 'num', kwh.node),
    cell('age', 'age', age), cell('spark', '', spark), actions);

  const update = (now) => {
    const fresh = freshness(now);
    if (name.textContent !== now.name) replace(actions, meterActions(now, () => {}));
    node.classList.toggle('stale', fresh === 'stale');
    setText(name, now.name);
    setText(about, [t(`type.${now.meterType}`), now.location].filter(Boolean).join(' · '));
    status.update(...statusLook(now));
    setText(trouble, now.lastError ?? (now.quality === 'suspect' ? now.hints[0] : '') ?? '');
    kw.update(quantity('currentPower', now.currentPower), 'kW');
    kwh.update(quantity('totalEnergy', now.totalEnergy), 'kWh');
    setText(age, now.quality === 'none' ? t('freshness.none') : ago(ageOf(now)));
  };
  return {node, update};
}

/** Look and word of a meter's status; one whose age nobody vouches for is stale, not online. */
export function statusLook(meter) {
  const fresh = freshness(meter);
  if (meter.status === 'online' && fresh !== 'live') return [fresh, t(`freshness.${fresh}`)];
  return [meter.status, t(`status.${meter.status}`)];
}

function matches(meter, words) {
  const text = [meter.name, meter.location, meter.id, meter.protocol, meter.status].join(' ').toLowerCase();
  return (!view.type || meter.meterType === view.type) && words.every((word) => text.includes(word));
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
