/** The page of one meter: what it reads now, what it read, and how it is read. */

import {meterActions, readerNote} from './actions.js';
import {get, meterPath} from './api.js';
import {h, patch, replace, setText} from './dom.js';
import {UNITS, UNKNOWN, ago, isKnown, kilowatts, quantity} from './format.js';
import {historyCard} from './history.js';
import {ageOf, freshness, store, subscribe} from './live.js';
import {statusChip} from './meters.js';
import {card, chip, facts, failed, measure, note, pageHead, spinner} from './parts.js';
import {quantityName, t} from './text.js';

export function page([id], leaving) {
	const node = h('div.stack');

	async function load() {
		replace(node, spinner());
		try {
			const details = await get(meterPath(id), {}, {signal: leaving});
			show(details);
		} catch (error) {
			replace(node, pageHead(t('meter.title')), failed(error, load), h('a', {href: '#/meters'}, t('meter.toList')));
		}
	}

	function show(details) {
		const actions = h('div', meterActions(details, () => (location.hash = '#/meters')));
		const status = h('span.status');
		const head = pageHead(details.name, status, actions);
		const now = h('div');
		replace(node, head, readerNote(), now, historyCard(details, leaving), settingsCard(details));
		let seen = false;
		subscribe(() => {
			const meter = store.meters.get(id);
			if (meter) {
				setText(head.firstChild, meter.name);
				patch(status, h('span.status', statusChip(meter)));
				patch(now, h('div', valuesCard(meter)));
				seen = true;
			} else if (seen && store.load !== null) {
				replace(actions);
				replace(status, chip('offline', t('meter.gone')));
			}
		}, leaving);
	}

	load();
	return {node, title: store.meters.get(id)?.name ?? t('meter.title')};
}

function valuesCard(meter) {
	const fresh = freshness(meter);
	const age = fresh === 'none' ? t('freshness.none') : t('meter.readAt', {age: ago(ageOf(meter), fresh !== 'stale')});
	const values = Object.entries(meter).filter(([name]) => name in UNITS).map(([name, value]) =>
		h('div', {dataset: {key: name}},
			h('dt.hint', quantityName(name)), h('dd', measure(quantity(name, value), UNITS[name]))));
	return card(t('meter.now'), [
		h('div.stack', notesOf(meter, fresh)), h('dl.values', {class: fresh === 'stale' && 'stale'}, values),
	], {tools: h('p.muted', age)});
}

function notesOf({lastError, quality, hints, status}, fresh) {
	return [
		lastError && note('error', lastError),
		fresh === 'stale' && note('stale', t(status === 'online' ? 'meter.unsure' : 'meter.stale')),
		quality === 'suspect' && hints.map((hint) => note('suspect', hint)),
	];
}

/** How the meter is registered. */
function settingsCard({id, location, meterType, pollInterval, staleAfter, maxPower, communication, warnings}) {
	const rows = {
		'form.meterType': `${t(`type.${meterType}`)} – ${t(`form.type.${meterType}`)}`,
		'form.location': location || UNKNOWN,
		'form.template': communication.template,
		'form.pollInterval': pollInterval && `${pollInterval / 1000} s`,
		'form.staleAfter': `${staleAfter / 1000} s`,
		'form.maxPower': isKnown(maxPower) ? kilowatts(maxPower) : t('meter.noMaxPower'),
		'meter.id': h('span.mono', id),
	};
	return card(t('meter.settings'), h('div.stack',
		warnings.map((warning) => note('warning', warning)),
		facts(Object.entries(rows).filter(([, value]) => value).map(([key, value]) => [t(key), value])),
		h('details', h('summary', t('meter.raw')),
			h('pre.code', {tabindex: 0, 'aria-label': t('meter.raw')}, JSON.stringify(communication, null, 2)))));
}
