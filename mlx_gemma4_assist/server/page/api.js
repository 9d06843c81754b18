// The server's OpenAI protocol, as far as the page speaks it.

const KEY = "api-key";

/** What went wrong, in one sentence. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {number} status of HTTP; 0 if there was no answer.
   */
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The key that was typed in, "" for none. It is gone when the tab is closed. */
export function apiKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

/** Keep a key until the tab is closed. */
export function setApiKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

async function request(path, options) {
  const headers = { "Content-Type": "application/json" };
  if (apiKey()) headers.Authorization = `Bearer ${apiKey()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  let message = `The server answered with status ${response.status}.`;
  try {
    message = (await response.json()).error.message ?? message;
  } catch {
    // No JSON, or of another shape: the status says it.
  }
  const wait = response.headers.get("Retry-After");
  return new ApiError(wait ? `${message} Try again in ${wait} s.` : message, response.status);
}

/**
 * What the server serves.
 * @returns {Promise<Array<{id: string, capabilities: ?Array<string>, assistant: ?string}>>} abilities in Ollama's words
 * @throws {ApiError}
 */
export async function listModels() {
  const response = await request("v1/models", {});
  return (await response.json()).data;
}

/**
 * Let the model stop thinking, and answer.
 * @param {string} id of the answer, as its chunks tell it
 * @throws {ApiError}
 */
export async function endThought(id) {
  await request(`v1/thoughts/${encodeURIComponent(id)}/end`, { method: "POST" });
}

/**
 * The chunks of an answer, as they come.
 * @param {Object} body of the request
 * @param {AbortSignal} signal that stops it
 * @yields {Object} chunks
 * @throws {ApiError} refused, failed on the way, or broken off
 */
export async function* streamChat(body, signal) {
  const response = await request("v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message ?? "The server failed.", response.status);
    yield chunk;
  }
  throw new ApiError("The connection ended before the answer did.");
}

/**
 * The data of server-sent events.
 * @param {ReadableStream<Uint8Array>} stream
 * @yields {string}
 */
export async function* events(stream) {
  let rest = "";
  let data = [];
  for await (const text of decoded(stream)) {
    const lines = (rest + text).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      }
    }
  }
}

async function* decoded(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The connection to the server broke.");
  } finally {
    reader.cancel().catch(() => {});
  }
}
