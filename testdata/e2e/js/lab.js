// What js_test.go tells the tests beside this file.
const { FOREMAN_URL, FOREMAN_TOKEN, CHAT_MODEL, EMBED_MODEL } = process.env;

export const url = FOREMAN_URL;
export const token = FOREMAN_TOKEN;
export const headers = { Authorization: `Bearer ${FOREMAN_TOKEN}` };
export const chatModel = CHAT_MODEL;
export const embedModel = EMBED_MODEL;

// question has the same answer at each asking: the models are made so.
export const question = 'Who are you?';

// each gathers what an asynchronous iterable yields.
export async function each(iterable, read = (chunk) => chunk) {
  const chunks = [];
  for await (const chunk of iterable) chunks.push(read(chunk));
  return chunks;
}
