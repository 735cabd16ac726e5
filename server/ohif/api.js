// Requests to the server that served this page. Its refusals are sentences; they are shown as they are.

export class Refusal extends Error {
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: 'no-store', ...options });
  } catch {
    throw new Refusal('The server cannot be reached; look whether it runs, then try again.', 0);
  }
  if (response.ok) return response;
  let sentence = `The server answered with ${response.status}.`;
  try {
    sentence = (await response.json()).detail ?? sentence;
  } catch { /* not ours: a proxy in between answered */ }
  throw new Refusal(sentence, response.status);
}

const json = (method, body) => ({
  method, body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' },
});
const named = (name) => encodeURIComponent(name);

export const rounds = async () => (await (await ask('/rounds')).json()).rounds;
export const models = async () => (await (await ask('/models')).json()).models;
export const stats = async () => (await ask('/datastore/')).json();
export const imageInfo = async (id) => (await ask(`/datastore/image/info?image=${named(id)}`)).json();

/** The unlabeled cases, the least sure first: {cases, next, total}. */
export const worklist = async (limit) =>
  (await ask(`/cases?status=unlabeled&sort=uncertainty&limit=${limit}`)).json();

/** The case to label next for this reader; {} when all are labeled. */
export const nextCase = async (reader) =>
  (await ask('/activelearning/most_uncertain', json('POST', { client_id: reader }))).json();

export const heartbeat = (id, reader) => ask(`/leases/${named(id)}/heartbeat`, json('POST', { client_id: reader }));

/** {params, label, uncertainty}: what the server says of a case, with label and map as NRRD bytes. */
export async function segment(id, reader) {
  const form = new FormData();
  form.append('params', JSON.stringify({
    uncertainty: true, result_extension: '.nrrd', result_dtype: 'uint8', client_id: reader,
  }));
  const response = await ask(`/infer/ugmcl?image=${named(id)}`, { method: 'POST', body: form });
  const parts = await response.formData();
  const params = parts.get('params');
  const bytes = async (part) => new Uint8Array(await parts.get(part).arrayBuffer());
  return {
    params: JSON.parse(typeof params === 'string' ? params : await params.text()),
    label: await bytes('image'),
    uncertainty: await bytes('uncertainty'),
  };
}

/** Submit an expert's label: NRRD bytes and what is said about them. */
export async function submit(id, label, params) {
  const form = new FormData();
  form.append('params', JSON.stringify(params));
  form.append('label', new Blob([label], { type: 'application/octet-stream' }), 'label.nrrd');
  return (await ask(`/datastore/label?image=${named(id)}&tag=final`, { method: 'PUT', body: form })).json();
}
