/** The page of one meter: what it reads now, what it read, and how it is read. */

import {meterActions, readerNote} from './actions.js';
import {asLink, get, isAdmin} from './api.js';
import {h, keyedList, replace, setText} from './dom.js';
import {ago, duration, isKnown, power, quantity, UNITS, withUnit} from './format.js';
import {historyCard} from './history.js';
import {ageOf, freshness, store, subscribe} from './live.js';
import {statusLook} from './meters.js';
import {card, chip, facts, failed, measure, note, spinner} from './parts.js';
import {t} from './text.js';

/** Makes the page of the meter with an id. */
export function page([id]) {
  const path = `/api/energy-meters/${encodeURIComponent(id)}`;
  const node = h('div', {class: 'stack'}, spinner());
  let history = null;
  let left = false;
  let unsubscribe = () => {};

  async function load() {
    replace(node, spinner());
    try {
      const details = await get(path);
      if (!left) show(details);
    } catch (error) {
      const back = h('a', {href: '#/meters', class: 'button'}, t('meter.toList'));
      replace(node, h('h1', null, t('meter.title')), failed(error, load), h('p', null, back));
    }
  }

  function show(details) {
    const now = valuesCard();
    history = historyCard(details);
    const head = pageHead(details);
    replace(node, head.node, !isAdmin() && readerNote(), now.node, history.node, settingsCard(details));
    let seen = false;
    const update = () => {
      const meter = store.meters.get(id);
      if (meter) for (const part of [head, now]) part.update(meter);
      else if (seen && store.load !== null) head.gone();
      seen ||= meter !== undefined;
    };
    unsubscribe = subscribe(update);
    update();
  }

  load();
  return {
    node,
    title: store.meters.get(id)?.name ?? t('meter.title'),
    destroy() {
      left = true;
      unsubscribe();
      history?.destroy();
    },
  };
}

/** Name, status and what can be done; says so when the meter was removed meanwhile. */
function pageHead(details) {
  const name = h('h1', null, details.name);
  const status = chip(details.status, t(`status.${details.status}`));
  const tools = h('div', {class: 'tools'}, meterActions(details, () => (location.hash = '#/meters')));
  const node = h('div', {class: 'page-head'},
    h('div', {class: 'row'}, name, status.node), tools);
  return {
    node,
    update(meter) {
      setText(name, meter.name);
      status.update(...statusLook(meter));
    },
    gone() {
      replace(tools);
      status.update('offline', t('meter.gone'));
    },
  };
}

/** The last value of each quantity, how old it is, and what is wrong with it. */
function valuesCard() {
  const age = h('p', {class: 'muted'});
  const notes = h('div', {class: 'stack'});
  const grid = h('dl', {class: 'values'});
  const show = keyedList(grid, ([name]) => name, ([name]) => valueTile(name));
  const node = card(t('meter.now'), {tools: [age]}, notes, grid);
  let said = null;
  return {
    node,
    update(meter) {
      const fresh = freshness(meter);
      show(Object.entries(meter).filter(([name]) => name in UNITS));
      grid.classList.toggle('stale', fresh === 'stale');
      setText(age, ageText(meter));
      const news = notesOf(meter, fresh);
      if (JSON.stringify(news) === said) return;
      said = JSON.stringify(news);
      replace(notes, news.map(([look, text]) => note(look, text)));
    },
  };
}

function ageText(meter) {
  return meter.quality === 'none' ? t('freshness.none') : t('meter.readAt', {age: ago(ageOf(meter))});
}

/** What is to be said of a meter's values now: [look, sentence]. */
function notesOf(meter, fresh) {
  const hints = meter.quality === 'suspect' ? meter.hints.map((hint) => ['suspect', hint]) : [];
  const stale = fresh === 'stale' ? [['stale', t(meter.status === 'online' ? 'meter.unsure' : 'meter.stale')]] : [];
  return [...(meter.lastError ? [['error', meter.lastError]] : []), ...stale, ...hints];
}

function valueTile(name) {
  const value = measure();
  const node = h('div', null, h('dt', null, t(`quantity.${name}`)), h('dd', null, value.node));
  return {node, update: ([, number]) => value.update(quantity(name, number), UNITS[name])};
}

/** An interval exactly: in seconds, unless it is of whole minutes. */
function periodText(ms) {
  return ms % 60_000 ? `${ms / 1000} s` : duration(ms / 1000);
}

/** How the meter is registered, in words and as the API tells it. */
function settingsCard(meter) {
  const {communication} = meter;
  const raw = h('pre', {class: 'code', tabindex: 0, 'aria-label': t('meter.raw')}, JSON.stringify(communication, null, 2));
  return card(t('meter.settings'), {class: 'settings'},
    h('div', {class: 'stack'}, meter.warnings.map((warning) => note('warning', warning))),
    facts([
      [t('form.name'), meter.name],
      [t('form.location'), meter.location || '–'],
      [t('form.meterType'), `${t(`type.${meter.meterType}`)} – ${t(`form.type.${meter.meterType}`)}`],
      [t('form.protocol'), t(`protocol.${meter.protocol}`)],
      communication.template && [t('form.template'), communication.template],
      [t('form.pollInterval'), isKnown(meter.pollInterval) ? periodText(meter.pollInterval) : t('meter.speaks')],
      [t('form.staleAfter'), periodText(meter.staleAfter)],
      [t('form.maxPower'), isKnown(meter.maxPower) ? withUnit(power(meter.maxPower), 'kW') : t('meter.noMaxPower')],
      [t('meter.id'), h('span', {class: 'mono'}, meter.id)],
    ]),
    h('details', null, h('summary', null, t('meter.raw')), raw,
      h('p', null, h('a', {href: asLink(`/api/energy-meters/${meter.id}`, {}), target: '_blank', rel: 'noopener'}, t('meter.rawLink')))));
}
