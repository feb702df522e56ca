// What js_test.go tells the tests beside this file.
const { FOREMAN_URL, EAR_URL, FOREMAN_TOKEN, CHAT_MODEL, EMBED_MODEL, EAR_MODEL } = process.env;

export const url = FOREMAN_URL;
export const earUrl = EAR_URL; // of a foreman whose Ollama has a model that hears
export const token = FOREMAN_TOKEN;
export const headers = { Authorization: `Bearer ${FOREMAN_TOKEN}` };
export const chatModel = CHAT_MODEL;
export const embedModel = EMBED_MODEL;
export const earModel = EAR_MODEL;

// question has the same answer at each asking: the models are made so.
export const question = 'Who are you?';

// each gathers what an asynchronous iterable yields.
export async function each(iterable, read = (chunk) => chunk) {
  const chunks = [];
  for await (const chunk of iterable) chunks.push(read(chunk));
  return chunks;
}

// silence is a second of it.
export function silence(rate = 8000) {
  const sound = Buffer.alloc(44 + rate, 128);
  sound.write('RIFF', 0);
  sound.writeUInt32LE(36 + rate, 4);
  sound.write('WAVEfmt ', 8);
  [[16, 16, 4], [1, 20, 2], [1, 22, 2], [rate, 24, 4], [rate, 28, 4], [1, 32, 2], [8, 34, 2]].forEach(([value, at, size]) => sound.writeUIntLE(value, at, size));
  sound.write('data', 36);
  sound.writeUInt32LE(rate, 40);
  return sound;
}
