/** The choice of what a meter is: a model of the device library, or a protocol by hand. */

import {h, setText} from './dom.js';
import {t} from './text.js';

const PROTOCOLS = ['modbus', 'mqtt', 'http'];

/** Makes the choice. templates: as the API lists them. onChange(): another one was chosen. */
export function devicePicker(templates, draft, onChange) {
	const models = templates.map((template) => ({node: item(template), words: wordsOf(template)}));
	const count = h('p.hint', {role: 'status'});
	const search = h('input', {type: 'search', id: 'device-search', autocomplete: 'off', oninput: filter});
	filter();

	function filter() {
		const words = search.value.toLowerCase().split(/\s+/);
		for (const model of models) model.node.hidden = !words.every((word) => model.words.includes(word));
		const n = models.filter(({node}) => !node.hidden).length;
		setText(count, t(n ? 'device.count' : 'device.none', {n}));
	}

	function choose({name, protocol}) {
		if (draft.protocol === protocol && draft.communication.template === name) return;
		draft.protocol = protocol;
		draft.communication = name ? {template: name} : {};
		delete draft.pollInterval;
		onChange();
	}

	function item(choice) {
		const {name, protocol, source} = choice;
		const by = t(`protocol.${protocol}`);
		const [title, about] = name ? [choice.title, [...choice.models, by].join(' · ')] : [by, t(`protocol.${protocol}.hint`)];
		const id = name && `caveats-${name}`;
		return h('div.choice',
			h('label',
				h('input', {type: 'radio', name: 'device', 'aria-describedby': id, onchange: () => choose(choice)}),
				h('span', h('strong', title), h('span.muted', ` ${about}`))),
			name && h('ul.caveats', {id},
				choice.caveats.map((caveat) => h('li', caveat)), h('li.muted', t('device.source', {source}))));
	}

	return h('fieldset',
		h('legend.visually-hidden', t('step.device')),
		h('div.field', h('label', {for: 'device-search'}, t('device.search')), search, count),
		h('div.library', models.map(({node}) => node)),
		h('h3', t('device.byHand')), h('div', PROTOCOLS.map((protocol) => item({protocol}))));
}

function wordsOf({title, maker, name, models, protocol}) {
	return [title, maker, name, ...models, protocol].join(' ').toLowerCase();
}
