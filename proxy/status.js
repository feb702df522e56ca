"use strict";
// Fetches the page again a second after it has come, and brings the parts that
// are live up to date.
const page = location.origin + location.pathname; // without the password that the address may have: fetch refuses it
const stale = document.getElementById("stale");
const live = document.getElementById("live");
live.hidden = false;

async function refresh() {
	if (!document.hidden && live.firstChild.checked) {
		try {
			const answer = await fetch(page, { cache: "no-store", signal: AbortSignal.timeout(5000) });
			if (!answer.ok) throw new Error(answer.statusText);
			const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
			for (const part of fresh.querySelectorAll("[data-live]")) update(document.getElementById(part.id), part);
			stale.hidden = true;
		} catch {
			stale.hidden = false;
		}
	}
	setTimeout(refresh, 1000);
}

// Makes a node what another is, and touches nothing that is so already: who
// selects, copies or listens to something here is not disturbed by the rest.
function update(node, fresh) {
	if (node.isEqualNode(fresh)) return;
	if (node.nodeName !== fresh.nodeName) return node.replaceWith(fresh);
	if (node.nodeType === Node.TEXT_NODE) return void (node.data = fresh.data);
	for (const { name } of [...node.attributes]) if (!fresh.hasAttribute(name)) node.removeAttribute(name);
	for (const { name, value } of fresh.attributes) if (node.getAttribute(name) !== value) node.setAttribute(name, value);
	const is = [...node.childNodes], shall = [...fresh.childNodes];
	shall.forEach((child, i) => i < is.length ? update(is[i], child) : node.append(child));
	is.slice(shall.length).forEach(child => child.remove());
}
setTimeout(refresh, 1000);
