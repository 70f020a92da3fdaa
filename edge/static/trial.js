/** The test of a registration: asks the meter now, shows what came and what to try. */

import {post} from './api.js';
import {h, replace, setText} from './dom.js';
import {number, quantity, UNITS, withUnit} from './format.js';
import {failed, icon, note} from './parts.js';
import {quantityName} from './rows.js';
import {t} from './text.js';

const TIMEOUT_MS = 120_000;

/**
 * Makes the test; gives {node, run(), stop(), invalidate()}. draft: what is tested.
 * onFaults(error): the registration has faults. onApply(quantity, register): another way to read a
 * quantity was chosen. onDone(good): an answer came, and whether nothing is wrong.
 */
export function trial(draft, {onFaults, onApply, onDone}) {
  const button = h('button', {type: 'button', class: 'button primary', onclick: run}, t('trial.run'));
  const result = h('div', {class: 'stack', 'aria-live': 'polite'});
  const node = h('div', {class: 'stack'}, h('p', {class: 'hint'}, t('trial.what')), h('div', {class: 'row'}, button), result);
  let asked = null;

  /** Asks the meter; a second call while one runs ends that. */
  async function run() {
    if (asked) {
      stop();
      return;
    }
    const mine = new AbortController();
    asked = mine;
    const done = wait();
    try {
      const {name, protocol, meterType, communication} = draft.document;
      const body = {name: name || t('trial.name'), protocol, meterType: meterType ?? 'zone', communication};
      const found = await post('/api/energy-meters/test', body, {timeoutMs: TIMEOUT_MS, signal: mine.signal});
      if (asked === mine) show(found);
    } catch (error) {
      if (asked === mine) fail(error);
    }
    done();
    if (asked === mine) asked = null;
  }

  function stop() {
    asked?.abort();
    asked = null;
    replace(result);
  }

  /** Shows that time passes, until what it gives is called. */
  function wait() {
    const began = performance.now();
    const elapsed = h('span', {'aria-hidden': 'true'});
    const tell = () => setText(elapsed, t('trial.elapsed', {s: Math.floor((performance.now() - began) / 1000)}));
    tell();
    const timer = setInterval(tell, 500);
    replace(button, t('trial.stop'));
    replace(result, h('div', {class: 'waiting'}, h('span', {class: 'spinner', 'aria-hidden': 'true'}), t('trial.running'), elapsed));
    return () => {
      clearInterval(timer);
      replace(button, t('trial.again'));
    };
  }

  function fail(error) {
    replace(result);
    if (error.details.length) onFaults(error);
    else replace(result, failed(error, run));
  }

  function show(found) {
    const good = found.findings.every(({cause}) => cause === 'none');
    const findings = found.findings.map(({cause, message}) => note(cause === 'none' ? 'good' : 'warning', h('p', null, message)));
    const others = Object.entries(found.interpretations).filter(([, list]) => list.length);
    replace(result, findings, values(found), others.map(([name, list]) => interpretations(name, list)), exchanges(found));
    onDone(good);
  }

  function interpretations(name, list) {
    const unit = UNITS[{power: 'currentPower', energy: 'totalEnergy'}[name] ?? name];
    return h('section', {class: 'stack-small'},
      h('h3', null, t('trial.interpretations', {name: quantityName(name)})),
      h('ul', {class: 'choices'}, list.map(({value, why, register}) => h('li', null,
        h('strong', null, withUnit(number(value, 3), unit)), h('span', null, why), h('code', null, registerText(register)),
        h('button', {type: 'button', class: 'button small', onclick: () => onApply(name, register)}, t('trial.apply'))))));
  }

  /** What was found no longer is of what is entered now. */
  function invalidate() {
    if (asked || result.childNodes.length) stop();
    replace(button, t('trial.run'));
  }

  return {node, run, stop, invalidate};
}

function values({reading}) {
  const rows = Object.entries(reading);
  if (!rows.length) return null;
  return h('table', {class: 'plain'},
    h('caption', {class: 'strong'}, t('trial.values')),
    h('tbody', null, rows.map(([name, value]) => h('tr', null,
      h('th', {scope: 'row'}, t(`quantity.${name}`)), h('td', {class: 'num'}, withUnit(quantity(name, value), UNITS[name]))))));
}

function registerText({address, type, wordOrder, scale}) {
  const order = type.endsWith('16') ? [] : [t(`choice.${wordOrder}`)];
  return [address, type, ...order, `× ${scale}`].join(', ');
}

/** What was asked and answered, word by word; folded away. */
function exchanges({exchanges: list, line}) {
  return h('details', null, h('summary', null, t('trial.exchanges', {n: list.length, line})),
    h('ol', {class: 'exchanges'}, list.map(({request, raw, roundTripMs, error}) => h('li', null,
      h('p', null, request, roundTripMs !== null && h('span', {class: 'muted'}, ` ${roundTripMs} ms`)),
      raw !== null && h('code', null, raw),
      error && h('p', {class: 'fault'}, icon('bad'), ` ${error}`)))));
}
