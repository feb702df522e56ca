"use strict";
// Fetches the page every second and updates its parts that have data-live.
const page = location.origin + location.pathname; // without the password in the address: fetch refuses addresses with one
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

// Makes node equal to fresh and leaves equal nodes alone, so that updates keep a
// selection and screen readers read only what has changed.
function update(node, fresh) {
	if (node.isEqualNode(fresh)) return;
	if (node.nodeName !== fresh.nodeName) return node.replaceWith(fresh);
	if (node.nodeType === Node.TEXT_NODE) return void (node.data = fresh.data);
	for (const { name } of [...node.attributes]) if (!fresh.hasAttribute(name)) node.removeAttribute(name);
	for (const { name, value } of fresh.attributes) if (node.getAttribute(name) !== value) node.setAttribute(name, value);
	const old = [...node.childNodes], wanted = [...fresh.childNodes];
	wanted.forEach((child, i) => i < old.length ? update(old[i], child) : node.append(child));
	old.slice(wanted.length).forEach(child => child.remove());
}
setTimeout(refresh, 1000);
