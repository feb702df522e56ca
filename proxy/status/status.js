"use strict";
// Fetches the page every second and updates its parts that have data-live.
const page = location.origin + location.pathname; // without the password in the address: fetch refuses addresses with one
const stale = document.getElementById("stale");
const live = document.getElementById("live");
live.hidden = false;
localise(document);

async function refresh() {
	if (!document.hidden && live.firstChild.checked) {
		try {
			const answer = await fetch(page, { cache: "no-store", signal: AbortSignal.timeout(5000) });
			if (!answer.ok) throw new Error(answer.statusText);
			show(new DOMParser().parseFromString(await answer.text(), "text/html"));
			setStale(false);
		} catch {
			setStale(true);
		}
	}
	setTimeout(refresh, 1000);
}

function setStale(isStale) {
	stale.hidden = !isStale;
	document.body.classList.toggle("stale", isStale);
	if (isStale) document.title = "foreman does not answer";
}

function show(fresh) {
	localise(fresh);
	document.title = fresh.title;
	for (const part of fresh.querySelectorAll("[data-live]")) {
		const node = document.getElementById(part.id);
		if (!node.querySelector("button:hover")) update(node, part); // nothing moves under a pointer that is about to press
	}
}

// Times are told by the clock of whoever looks.
function localise(root) {
	for (const time of root.querySelectorAll("time")) time.textContent = new Date(time.dateTime).toLocaleTimeString();
}

// Makes node equal to fresh and leaves equal nodes alone, so that updates keep a
// selection and the focus, and screen readers read only what has changed. A node with an
// id never becomes another one: no button stops another chat than before.
function update(node, fresh) {
	if (node.isEqualNode(fresh)) return;
	if (node.nodeName !== fresh.nodeName || node.id !== fresh.id) return node.replaceWith(fresh.cloneNode(true));
	if (node.nodeType === Node.TEXT_NODE) return void (node.data = fresh.data);
	for (const { name } of [...node.attributes]) if (!fresh.hasAttribute(name) && name !== "open") node.removeAttribute(name);
	for (const { name, value } of fresh.attributes) if (node.getAttribute(name) !== value) node.setAttribute(name, value);
	const ids = new Set([...fresh.children].map(child => child.id));
	for (const child of [...node.children]) if (child.id && !ids.has(child.id)) child.remove();
	const wanted = [...fresh.childNodes];
	wanted.forEach((child, i) => i < node.childNodes.length ? update(node.childNodes[i], child) : node.append(child.cloneNode(true)));
	[...node.childNodes].slice(wanted.length).forEach(child => child.remove());
}
setTimeout(refresh, 1000);
