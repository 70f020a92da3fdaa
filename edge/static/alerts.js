/** The problems of the site: those that last, and those that ended lately. */

import {get, repeat} from './api.js';
import {h, keyedList, replace, setText} from './dom.js';
import {duration, parseTime, time} from './format.js';
import {activeAlerts, serviceTime, store, subscribe} from './live.js';
import {card, chip, icon, showFailed} from './parts.js';
import {t} from './text.js';

const ENDED_EVERY_MS = 60_000;

/** A card with all problems that keeps itself up to date. Gives {node, destroy}. */
export function problems() {
  const active = h('ul', {class: 'alerts'});
  const calm = h('p', {class: 'calm'}, icon('good'), t('alerts.none'));
  const waiting = h('p', {class: 'muted'});
  const ended = endedAlerts();
  const list = keyedList(active, (alert) => alert.id, alertRow);
  const show = () => {
    const alerts = activeAlerts();
    list(alerts);
    calm.hidden = alerts.length > 0 || !store.connected;
    waiting.hidden = alerts.length > 0 || store.connected;
    setText(waiting, t(store.lostAt === null ? 'overview.waiting' : 'alerts.unknown'));
  };
  show();
  const unsubscribe = subscribe((changes) => {
    show();
    if (changes.alerts) ended.again();
  });
  const node = card(t('alerts.title'), {}, active, calm, waiting, ended.node);
  return {node, destroy: () => [unsubscribe, ended.stop].forEach((end) => end())};
}

function endedAlerts() {
  const list = h('ul', {class: 'alerts ended'});
  const summary = h('summary');
  const details = h('details', {class: 'ended-alerts', hidden: true}, summary, list);
  const trouble = h('div');
  const update = keyedList(list, (alert) => `${alert.id} ${alert.until}`, alertRow);
  const load = async () => {
    try {
      const alerts = (await get('/api/alerts')).filter((alert) => alert.until !== null);
      update(alerts);
      setText(summary, `${t('alerts.ended')}: ${alerts.length}`);
      details.hidden = alerts.length === 0;
      replace(trouble);
    } catch (error) {
      if (store.connected) showFailed(trouble, error, () => loop.again());
    }
  };
  const loop = repeat(load, ENDED_EVERY_MS);
  return {node: h('div', null, details, trouble), ...loop};
}

function alertRow(alert) {
  const sign = chip(alert.severity, t(`severity.${alert.severity}`));
  const message = h('span');
  const when = h('span', {class: 'when'});
  const link = alert.meterId && h('a', {href: `#/meters/${encodeURIComponent(alert.meterId)}`}, t('alerts.meter'));
  const node = h('li', null, h('span', null, sign.node), h('p', {class: 'message'}, message, ' ', link), when);
  const update = (next) => {
    sign.update(next.severity, t(`severity.${next.severity}`));
    setText(message, next.message);
    setText(when, whenText(next));
  };
  return {node, update};
}

function whenText({since, until}) {
  const from = parseTime(since);
  const to = parseTime(until);
  const lasting = duration(((to ?? serviceTime()) - from) / 1000);
  if (to === null) return t('alerts.since', {time: time(from), duration: lasting});
  return t('alerts.lasted', {from: time(from), until: time(to), duration: lasting});
}
