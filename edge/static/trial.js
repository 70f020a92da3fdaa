/** The test of a registration: asks the meter now, shows what came and what to try. */

import {post} from './api.js';
import {h, replace, setText} from './dom.js';
import {UNITS, number, quantity, withUnit} from './format.js';
import {button, failed, note, spinner} from './parts.js';
import {fieldOf} from './rows.js';
import {quantityName, t} from './text.js';

const TIMEOUT_MS = 120_000;

/**
 * Makes the test; gives {node, run(), stop(), invalidate()}. draft: what is tested.
 * onFaults(error): the registration has faults. onApply(quantity, register): another way to read a
 * quantity was chosen. onDone(good): an answer came, and whether nothing is wrong.
 */
export function trial(draft, {onFaults, onApply, onDone}) {
	const go = button(t('trial.run'), () => (asked ? stop() : run()), {class: 'primary'});
	const result = h('div.stack', {'aria-live': 'polite'});
	let asked = null;

	async function run() {
		stop();
		const mine = asked = new AbortController();
		setText(go, t('trial.stop'));
		replace(result, spinner(t('trial.running')));
		try {
			const {name = t('step.test'), protocol, meterType = 'zone', communication} = draft;
			const body = {name, protocol, meterType, communication};
			const found = await post('/api/energy-meters/test', body, {timeoutMs: TIMEOUT_MS, signal: mine.signal});
			if (asked === mine) show(found);
		} catch (error) {
			if (asked === mine) fail(error);
		}
		if (asked !== mine) return;
		asked = null;
		setText(go, t('trial.again'));
	}

	function stop() {
		asked?.abort();
		asked = null;
		replace(result);
		setText(go, t('trial.again'));
	}

	/** What was found no longer is of what is entered now. */
	function invalidate() {
		stop();
		setText(go, t('trial.run'));
	}

	function fail(error) {
		replace(result, !error.details?.length && failed(error, run));
		if (error.details?.length) onFaults(error);
	}

	function show(found) {
		const isGood = ({cause}) => cause === 'none';
		const findings = found.findings.map((one) => note(isGood(one) ? 'good' : 'warning', h('p', one.message)));
		const others = Object.entries(found.interpretations).filter(([, ways]) => ways.length);
		replace(result, findings, values(found.reading), others.map(interpretations), exchanges(found));
		onDone(found.findings.every(isGood));
	}

	function interpretations([name, ways]) {
		const field = fieldOf(name);
		return h('section',
			h('h3', t('trial.interpretations', {name: quantityName(field)})),
			h('ul.lined', ways.map(({value, why, register}) => h('li.row',
				h('strong', withUnit(number(value, 3), UNITS[field])), why, h('code', registerText(register)),
				button(t('trial.apply'), () => onApply(name, register), {class: 'small'})))));
	}

	return {node: h('div.stack', h('p.hint', t('trial.what')), h('div', go), result), run, stop, invalidate};
}

function values(reading) {
	const rows = Object.entries(reading);
	return rows.length > 0 && h('table.plain', h('caption', t('trial.values')), h('tbody', rows.map(([name, value]) => h('tr',
		h('th', {scope: 'row'}, quantityName(name)), h('td.num', withUnit(quantity(name, value), UNITS[name]))))));
}

function registerText({address, type, wordOrder, scale}) {
	const order = type.endsWith('16') ? [] : [t(`choice.${wordOrder}`)];
	return [address, type, ...order, `× ${scale}`].join(', ');
}

function exchanges({exchanges: list, line}) {
	return h('details', h('summary', t('trial.exchanges', {n: list.length, line})),
		h('pre.code', {tabindex: 0, role: 'group', 'aria-label': line}, JSON.stringify(list, null, 2)));
}
