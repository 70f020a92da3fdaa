/** Adding a meter step by step, and editing one: device, connection, test, name. */

import {readerNote} from './actions.js';
import {get, isAdmin, post, put} from './api.js';
import {h, replace} from './dom.js';
import {connectionForm, detailsForm} from './connection.js';
import {devicePicker} from './devices.js';
import {Draft, mergePatch, placeFaults} from './fields.js';
import {busy, card, failed, icon, note, spinner} from './parts.js';
import {t} from './text.js';
import {trial} from './trial.js';

const STEPS = ['device', 'connection', 'test', 'details'];
const KEPT = ['name', 'location', 'protocol', 'meterType', 'pollInterval', 'staleAfter', 'maxPower', 'communication'];

/** Makes the page: of the guided way to a new meter, or of the meter with an id. */
export function page([id]) {
  const title = t(id ? 'edit.title' : 'add.title');
  const node = h('div', {class: 'stack'}, spinner());
  let form = null;

  async function load() {
    replace(node, spinner());
    try {
      const [templates, meter] = await Promise.all([
        get('/api/templates'),
        id && get(`/api/energy-meters/${encodeURIComponent(id)}`),
      ]);
      form = new MeterForm(templates, meter);
      const heading = id ? t('edit.titleNamed', {name: meter.name}) : title;
      replace(node, h('div', {class: 'page-head'}, h('h1', null, heading)), form.node);
      form.start();
    } catch (error) {
      if (!error.code) throw error;
      replace(node, h('h1', null, title), failed(error, load));
    }
  }

  if (isAdmin()) load();
  else replace(node, h('h1', null, title), readerNote(), h('p', null, h('a', {class: 'button', href: '#/meters'}, t('meter.toList'))));
  return {node, title, destroy: () => form?.destroy()};
}

/** The form. meter: as the API shows the one to edit; without it, a new one is added. */
class MeterForm {
  constructor(templates, meter) {
    this.meter = meter;
    this.templates = templates;
    const known = KEPT.filter((name) => ![null, undefined, ''].includes(meter?.[name]));
    this.before = meter ? Object.fromEntries(known.map((name) => [name, meter[name]])) : {communication: {}};
    this.draft = new Draft(this.before);
    this.steps = meter ? STEPS.slice(1) : STEPS;
    this.trial = trial(this.draft, {
      onFaults: (error) => this.showFaults(error),
      onApply: (name, register) => this.apply(name, register),
      onDone: (good) => this.judge(good),
    });
    this.connection = h('div', {class: 'stack', oninput: () => this.trial.invalidate()});
    this.details = h('div', {class: 'stack'});
    const bodies = {
      device: !meter && devicePicker(templates, this.draft, () => (this.changed = true)),
      connection: this.connection, test: this.trial.node, details: this.details,
    };
    this.summaries = {};
    this.sections = Object.fromEntries(this.steps.map((name) => [name, this.section(name, bodies[name])]));
    this.rail = h('ol', {class: 'rail', 'aria-label': t('add.steps')});
    this.buttons = h('div', {class: 'row'});
    this.node = h('form', {class: 'stack', novalidate: true, onsubmit: (event) => this.submit(event)},
      !meter && this.rail, Object.values(this.sections), this.buttons);
  }

  section(name, body) {
    this.summaries[name] = h('div', {class: 'stack summary', role: 'alert'});
    const section = card(t(`step.${name}`), {}, this.summaries[name], body);
    section.querySelector('h2').tabIndex = -1;
    return section;
  }

  destroy() {
    this.trial.stop();
  }

  async start() {
    if (!this.meter) {
      this.show('device', false);
      return;
    }
    await this.drawConnection();
    this.drawDetails();
    replace(this.buttons, this.saveButton(), h('a', {class: 'button', href: `#/meters/${this.meter.id}`}, t('form.cancel')));
  }

  // --- Steps

  async submit(event) {
    event.preventDefault();
    const at = this.steps.indexOf(this.step);
    if (this.meter || this.step === this.steps.at(-1)) await busy(this.save, () => this.store());
    else if (this.step === 'device' && !this.draft.document.protocol) this.tell('device', [{message: t('device.missing')}]);
    else await busy(this.nextButton, () => this.show(this.steps[at + 1]));
  }

  /** Goes to a step of the guided way, and tells keyboard and screen reader where they are. */
  async show(name, moveFocus = true) {
    if (this.step === 'test') this.trial.stop();
    if (this.changed && name === 'connection') {
      this.changed = false;
      this.trial.invalidate();
      replace(this.details);
      await this.drawConnection();
    }
    if (name === 'details') this.drawDetails();
    this.step = name;
    const at = this.steps.indexOf(name);
    for (const [one, section] of Object.entries(this.sections)) section.hidden = one !== name;
    replace(this.rail, this.steps.map((one, i) =>
      h('li', {'aria-current': i === at && 'step', class: i < at && 'done'}, t(`step.${one}`))));
    this.drawButtons(at);
    if (moveFocus) this.sections[name].querySelector('h2').focus();
    if (name === 'test') this.trial.run();
  }

  drawButtons(at) {
    const last = at === this.steps.length - 1;
    const onclick = () => this.show(this.steps[at - 1]);
    this.nextButton = h('button', {class: 'button primary'}, t('form.next'));
    this.judge(false);
    replace(this.buttons,
      at > 0 && h('button', {type: 'button', class: 'button', onclick}, icon('back'), t('form.back')),
      last ? this.saveButton() : this.nextButton,
      h('a', {class: 'button quiet', href: '#/meters'}, t('form.cancel')));
  }

  /** A good test makes the way on the button to press. */
  judge(good) {
    if (this.step !== 'test') return;
    replace(this.nextButton, t(good ? 'form.next' : 'form.nextAnyway'));
    this.nextButton.classList.toggle('primary', good);
  }

  saveButton() {
    this.save = h('button', {class: 'button primary'}, t(this.meter ? 'form.saveChanges' : 'form.save'));
    return this.save;
  }

  /** Draws the fields of the connection; a template's own settings are shown as what holds. */
  async drawConnection() {
    const {template: name} = this.draft.communication;
    let template = null;
    try {
      template = name ? await get(`/api/templates/${encodeURIComponent(name)}`) : null;
    } catch (error) {
      replace(this.connection, failed(error, () => this.drawConnection()));
      return;
    }
    this.redraw = () => connectionForm(this.connection, this.draft, template, this.redraw);
    this.redraw();
  }

  drawDetails() {
    const template = this.templates.find((one) => one.name === this.draft.communication.template);
    if (!this.details.firstChild) detailsForm(this.details, this.draft, template);
  }

  // --- What the API says

  /** Takes over how a quantity is to be read, and tries again. */
  apply(name, register) {
    const {wordOrder, ...entry} = register;
    if (!entry.type.endsWith('16')) entry.wordOrder = wordOrder;
    const registers = {...this.draft.communication.registers, [name]: entry};
    delete registers[`${name}Scale`];
    if (name === 'energy') delete registers.energyHigh;
    this.draft.communication.registers = registers;
    this.redraw();
    this.trial.run();
  }

  async store() {
    const {document} = this.draft;
    try {
      if (!this.meter) location.hash = `#/meters/${(await post('/api/energy-meters', document)).id}`;
      else {
        const patch = mergePatch(this.before, document);
        if (Object.keys(patch).length) await put(`/api/energy-meters/${this.meter.id}`, patch);
        location.hash = `#/meters/${this.meter.id}`;
      }
    } catch (error) {
      if (error.code === undefined) throw error;
      await this.showFaults(error);
    }
  }

  /** Shows each fault at its field, goes to the step of the first, and to the field. */
  async showFaults(error) {
    for (const name of this.steps) this.tell(name, []);
    const faults = error.details;
    if (!faults.length) {
      this.tell(this.meter ? 'details' : this.step, [error]);
      return;
    }
    const isOfConnection = ({field}) => /^communication\b/.test(field);
    const placed = [['connection', faults.filter(isOfConnection)], ['details', faults.filter((one) => !isOfConnection(one))]]
      .map(([name, list]) => [name, list, placeFaults(this.sections[name], list)]);
    const [step, , {first}] = placed.find(([, list]) => list.length);
    if (!this.meter && this.step !== step) await this.show(step, false);
    for (const [name, , found] of placed) this.tell(name, found.rest);
    first?.closest('details')?.setAttribute('open', '');
    (first ?? this.sections[step].querySelector('h2')).focus();
  }

  /** Says above a step what no field of it is about. */
  tell(step, faults) {
    const text = ({field, message}) => (field ? `${field}: ${message}` : message);
    replace(this.summaries[step], faults.map((fault) => note('critical', h('p', null, text(fault)))));
  }
}
