/** The problems of the site: those that last, and those that ended lately. */

import {get} from './api.js';
import {h, patch} from './dom.js';
import {duration, parseTime, time} from './format.js';
import {activeAlerts, live, serviceTime, store, subscribe} from './live.js';
import {card, chip, icon} from './parts.js';
import {upToDate} from './refresh.js';
import {t} from './text.js';

const ENDED_EVERY_MS = 60_000;

export function problems(leaving) {
	const list = h('div');
	const ended = upToDate(list, async () => {
		const alerts = (await get('/api/alerts')).filter(({until}) => until !== null);
		patch(list, h('div', alerts.length > 0 && h('details',
			h('summary', `${t('alerts.ended')}: ${alerts.length}`), h('ul.alerts.lined', alerts.map(alertRow)))));
	}, ENDED_EVERY_MS, leaving);
	subscribe((changes) => changes.has('alerts') && ended.again(), leaving);
	return card(t('alerts.title'), [live(active, leaving), ended.node]);
}

function active() {
	const alerts = activeAlerts();
	if (alerts.length) return h('div', h('ul.alerts.lined', alerts.map(alertRow)));
	if (store.connected) return h('div', h('p.good', icon('good'), ' ', t('alerts.none')));
	return h('div', h('p.muted', t(store.lostAt === null ? 'overview.waiting' : 'alerts.unknown')));
}

function alertRow({id, severity, message, meterId, since, until}) {
	const link = meterId && h('a', {href: `#/meters/${encodeURIComponent(meterId)}`}, t('alerts.meter'));
	return h('li', {dataset: {key: `${id} ${until}`}},
		h('span', chip(severity, t(`severity.${severity}`))), h('p', message, ' ', link), h('span.hint', whenText(since, until)));
}

function whenText(since, until) {
	const [from, to] = [parseTime(since), parseTime(until)];
	const lasting = duration(((to ?? serviceTime()) - from) / 1000);
	if (to === null) return t('alerts.since', {time: time(from), duration: lasting});
	return t('alerts.lasted', {from: time(from), until: time(to), duration: lasting});
}
