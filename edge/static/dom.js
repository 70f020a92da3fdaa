/** Making and changing elements. */

const AS_PROPERTY = new Set(['value', 'checked', 'selected', 'disabled']);

/**
 * Makes an HTML element: h('button.small', {onclick: save}, 'Save').
 * props, which may be left out: attributes; functions listen; `dataset` is an object.
 * children: nodes, texts, lists of them. What is null or false is left out.
 */
export function h(tag, ...inside) {
	return make('http://www.w3.org/1999/xhtml', tag, inside);
}

/** As `h`, for SVG. */
export function svg(tag, ...inside) {
	return make('http://www.w3.org/2000/svg', tag, inside);
}

export function replace(node, ...children) {
	node.replaceChildren(...present(children));
}

/** Sets a node's text if it is another one, so that screen readers are told of changes only. */
export function setText(node, text) {
	if (node.textContent !== text) node.textContent = text;
}

/** Sets an attribute if it is another one; null and false remove it. */
export function setAttribute(node, name, value) {
	if (isAbsent(value)) node.removeAttribute(name);
	else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? '' : value);
}

/**
 * Makes a node look as another of its kind, touching only what differs, so that focus and selection
 * stay. Children match by `dataset.key`, else by their place; listeners stay those of the old node.
 */
export function patch(node, wanted) {
	if (node.nodeType === Node.TEXT_NODE) {
		if (node.data !== wanted.data) node.data = wanted.data;
		return;
	}
	for (const {name} of [...node.attributes]) {
		// `open` is the user's own choice.
		if (name !== 'open' && !wanted.hasAttribute(name)) node.removeAttribute(name);
	}
	for (const {name, value} of wanted.attributes) {
		if (node.getAttribute(name) !== value) node.setAttribute(name, value);
	}
	const children = [...wanted.childNodes];
	children.forEach((child, i) => patchChild(node, child, node.childNodes[i] ?? null));
	while (node.childNodes.length > children.length) node.lastChild.remove();
}

function patchChild(parent, wanted, there) {
	const isSame = (one) => one?.nodeName === wanted.nodeName && one.dataset?.key === wanted.dataset?.key;
	const old = isSame(there) ? there : wanted.dataset?.key && [...parent.children].find(isSame);
	if (!old || old !== there) parent.insertBefore(old || wanted, there);
	if (old) patch(old, wanted);
}

function make(namespace, tag, inside) {
	const [name, ...classes] = tag.split('.');
	const node = document.createElementNS(namespace, name);
	if (classes.length) node.classList.add(...classes);
	const [props, ...children] = inside[0]?.constructor === Object ? inside : [{}, ...inside];
	for (const [key, value] of Object.entries(props)) if (!isAbsent(value)) give(node, key, value);
	node.append(...present(children));
	return node;
}

function give(node, name, value) {
	if (typeof value === 'function') node.addEventListener(name.slice(2), value);
	else if (name === 'dataset') Object.assign(node.dataset, value);
	else if (name === 'class') node.classList.add(...value.split(' '));
	else if (AS_PROPERTY.has(name)) node[name] = value;
	else setAttribute(node, name, value);
}

function present(children) {
	return children.flat(Infinity).filter((child) => !isAbsent(child));
}

function isAbsent(value) {
	return value === null || value === undefined || value === false;
}
