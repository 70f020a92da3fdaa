/** Making and changing elements: the only place that touches the DOM's own clumsy calls. */

const AS_PROPERTY = new Set(['value', 'checked', 'selected', 'disabled', 'open', 'indeterminate']);
const SVG_NAMESPACE = 'http://www.w3.org/2000/svg';

/**
 * Makes an HTML element: h('button', {class: 'button', onclick: save}, 'Save').
 * props: attributes; `on…` functions listen, `dataset` is an object, null and false are left out.
 * children: nodes, texts, lists of them; null and false are left out.
 */
export function h(tag, props, ...children) {
  return filled(document.createElement(tag), props, children);
}

/** Makes an SVG element, as `h` does. */
export function svg(tag, props, ...children) {
  return filled(document.createElementNS(SVG_NAMESPACE, tag), props, children);
}

/** Replaces all children of a node. */
export function replace(node, ...children) {
  node.replaceChildren(...present(children));
  return node;
}

/** Sets a node's text if it is another one, so that screen readers are told of changes only. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets or removes (null, false) an attribute if it is another one. */
export function setAttribute(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? '' : value);
}

/**
 * Keeps the children of a parent in step with a list, touching only what changed.
 * keyOf(item) -> key; make(item) -> {node, update(item)}. Gives a function that takes the items.
 */
export function keyedList(parent, keyOf, make) {
  let rows = new Map();
  return (items) => {
    const next = new Map();
    for (const item of items) {
      const key = keyOf(item);
      const row = rows.get(key) ?? make(item);
      row.update(item);
      next.set(key, row);
    }
    for (const [key, row] of rows) if (!next.has(key)) row.node.remove();
    let before = null;
    for (const row of [...next.values()].reverse()) {
      if (row.node.parentNode !== parent || row.node.nextSibling !== before) {
        parent.insertBefore(row.node, before);
      }
      before = row.node;
    }
    rows = next;
  };
}

function filled(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) give(node, name, value);
  node.append(...present(children));
  return node;
}

function give(node, name, value) {
  if (typeof value === 'function') node.addEventListener(name.slice(2).toLowerCase(), value);
  else if (name === 'dataset') Object.assign(node.dataset, value);
  else if (AS_PROPERTY.has(name)) node[name] = value;
  else setAttribute(node, name, value);
}

function present(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}
