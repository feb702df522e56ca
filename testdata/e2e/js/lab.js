// What js_test.go tells the tests beside this file.
const { FOREMAN_URL, FOREMAN_TOKEN, CHAT_MODEL, EMBED_MODEL, EAR_URL, EAR_MODEL, LEAVE_STREAMS } = process.env;

export const url = FOREMAN_URL;
export const token = FOREMAN_TOKEN;
export const headers = { Authorization: `Bearer ${FOREMAN_TOKEN}` };
export const chatModel = CHAT_MODEL;
export const embedModel = EMBED_MODEL;
export const earUrl = EAR_URL; // of a foreman whose Ollama has a model that hears, if there is one
export const earModel = EAR_MODEL;

// question has the same answer at each asking: the models are made so.
export const question = 'Who are you?';

// each gathers what an asynchronous iterable yields.
export async function each(iterable, read = (chunk) => chunk) {
  const chunks = [];
  for await (const chunk of iterable) chunks.push(read(chunk));
  return chunks;
}

// long is more words than Ollama makes here, which are ten contexts of 2048: a
// stand-in at 500 words a second takes 40 s. The test of an abort asks for them, and
// has no more than the patience for a chat that is aborted.
export const long = 80000;
export const patience = { timeout: 30000 };

// patienceInStream is for a test that leaves a stream, which not every Ollama survives.
export const patienceInStream = { ...patience, skip: LEAVE_STREAMS !== 'true' && 'this Ollama may hang when the reader of a stream leaves' };

// fetchUntil returns a fetch whose requests end with the signal, for clients that
// take a signal and leave their requests alone when it comes.
export const fetchUntil = (signal) => (resource, options) => fetch(resource, { ...options, signal });

// running waits until foreman says that a chat runs.
export async function running() {
  for (;;) {
    const health = await (await fetch(`${url}/healthz`)).json();
    if (health.running === 1) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

// silence is a second of it, as a WAV file.
export function silence() {
  const rate = 8000;
  const sound = Buffer.alloc(44 + rate, 128);
  sound.write('RIFF', 0);
  sound.writeUInt32LE(36 + rate, 4);
  sound.write('WAVEfmt ', 8);
  sound.writeUInt32LE(16, 16); // bytes of format
  sound.writeUInt16LE(1, 20); // PCM
  sound.writeUInt16LE(1, 22); // channel
  sound.writeUInt32LE(rate, 24);
  sound.writeUInt32LE(rate, 28); // bytes per second
  sound.writeUInt16LE(1, 32); // bytes per sample
  sound.writeUInt16LE(8, 34); // bits per sample
  sound.write('data', 36);
  sound.writeUInt32LE(rate, 40);
  return sound;
}
