/** The choice of what a meter is: a model of the device library, or a protocol by hand. */

import {h, replace, setText} from './dom.js';
import {t} from './text.js';

const PROTOCOLS = ['modbus', 'mqtt', 'http'];

/** Makes the choice. templates: as the API lists them. onChange(): another one was chosen. */
export function devicePicker(templates, draft, onChange) {
  const choices = [
    ...PROTOCOLS.map((protocol) => ({protocol, title: t(`protocol.${protocol}`)})),
    ...templates.map((one) => ({...one, words: [one.title, one.maker, one.name, ...one.models, one.protocol].join(' ').toLowerCase()})),
  ];
  const byHand = h('div', {class: 'choices'});
  const library = h('div', {class: 'choices library'});
  const count = h('p', {class: 'hint', role: 'status'});
  const search = h('input', {type: 'search', id: 'device-search', autocomplete: 'off', oninput: filter, 'aria-controls': 'device-library'});
  const items = choices.map((choice) => ({choice, node: item(choice)}));
  replace(byHand, items.slice(0, PROTOCOLS.length).map(({node}) => node));
  replace(library, items.slice(PROTOCOLS.length).map(({node}) => node));
  filter();

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const {choice, node} of items.slice(PROTOCOLS.length)) {
      node.hidden = !words.every((word) => choice.words.includes(word));
      shown += node.hidden ? 0 : 1;
    }
    setText(count, t(shown ? 'device.count' : 'device.none', {n: shown}));
  }

  function choose(choice) {
    const {name, protocol} = choice;
    const {document} = draft;
    if (document.protocol === protocol && document.communication.template === name) return;
    document.protocol = protocol;
    document.communication = name ? {template: name} : {};
    delete document.pollInterval;
    onChange();
  }

  function item(choice) {
    const {name = '', title, protocol, models = [], caveats = [], source} = choice;
    const about = name ? [...models, t(`protocol.${protocol}`)].join(' · ') : t(`protocol.${protocol}.hint`);
    const id = `caveats-${name}`;
    const onchange = () => choose(choice);
    return h('div', {class: 'choice'},
      h('label', null,
        h('input', {type: 'radio', name: 'device', 'aria-describedby': name ? id : null, onchange}),
        h('span', null, h('strong', null, title), h('span', {class: 'muted'}, ` ${about}`))),
      name && h('ul', {class: 'caveats', id},
        caveats.map((caveat) => h('li', null, caveat)), h('li', {class: 'muted'}, t('device.source', {source}))));
  }

  return h('fieldset', {class: 'group'},
    h('legend', {class: 'visually-hidden'}, t('step.device')),
    h('div', {class: 'field'}, h('label', {for: 'device-search'}, t('device.search')), search, count),
    h('div', {id: 'device-library'}, library),
    h('h3', null, t('device.byHand')), byHand);
}
