// One conversation through the client that openapi-typescript makes of openapi.json: that this compiles shows that
// the types are usable, that it runs shows that they tell the truth.

import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { paths } from "./generated/colloquy.js";

const url = process.env.COLLOQUY_URL;
assert(url, "COLLOQUY_URL is not set");
const colloquy = createClient<paths>({ baseUrl: url });

const opened = await colloquy.POST("/v1/sessions", {
  body: { userId: "auth0|typescript/Zoë", language: "en", metadata: { channel: "voice" } },
});
assert.equal(opened.response.status, 201);
assert(opened.data);
assert.equal(opened.data.status, "initiated");
const { sessionId } = opened.data;
const path = { sessionId };

const question = { eventId: "e-1", type: "user_speech", payload: { text: "Is anyone there?", confidence: 0.93 } };
const appended = await colloquy.POST("/v1/sessions/{sessionId}/events", { params: { path }, body: question });
assert.equal(appended.response.status, 201);
assert(appended.data);
assert.deepEqual(appended.data.payload, question.payload);

const replayed = await colloquy.POST("/v1/sessions/{sessionId}/events", { params: { path }, body: question });
assert.equal(replayed.response.status, 200);
assert.equal(replayed.response.headers.get("Idempotency-Replayed"), "true");
assert.deepEqual(replayed.data, appended.data);

const answer = { eventId: "e-2", type: "bot_speech", payload: { text: "Yes." } };
const clash = { ...question, type: "system" };
const bad = { ...question, eventId: "e-9", type: "No type" };
const batch = await colloquy.POST("/v1/sessions/{sessionId}/events/batch", {
  params: { path },
  body: { events: [question, answer, clash, bad] },
});
assert(batch.data);
// The compiler knows by `outcome` which fields there are.
const told = batch.data.outcomes.map((one): string => {
  switch (one.outcome) {
    case "created":
    case "replayed":
      return `${one.outcome} ${one.eventId} ${one.seq > 0}`;
    case "conflict":
      return `${one.outcome} ${one.eventId} ${one.problem.code}`;
    case "rejected":
      // @ts-expect-error What was rejected has no place among the events.
      assert.equal(one.seq, undefined);
      return `${one.outcome} ${one.problem.code}`;
  }
});
assert.deepEqual(told, [
  "replayed e-1 true",
  "created e-2 true",
  "conflict e-1 event-id-reused",
  "rejected validation-failed",
]);

const page = await colloquy.GET("/v1/sessions/{sessionId}/events", { params: { path, query: { limit: 10, order: "asc" } } });
assert(page.data);
assert.deepEqual(page.data.events.map((event) => event.eventId), ["e-1", "e-2"]);
assert.equal(page.data.pagination.hasMore, false);
assert.equal("nextCursor" in page.data.pagination, false);

// A loop that pages until there is no cursor ends, also where there is no page.
const pages: string[][] = [];
for (const limit of [1, 0]) {
  let cursor: string | undefined;
  do {
    const query = cursor === undefined ? { limit } : { limit, cursor };
    const { data } = await colloquy.GET("/v1/sessions/{sessionId}", { params: { path, query } });
    assert(data);
    pages.push(data.events.map((event) => event.eventId));
    cursor = data.pagination.nextCursor;
    assert.equal(data.pagination.hasMore, cursor !== undefined);
  } while (cursor !== undefined);
}
assert.deepEqual(pages, [["e-1"], ["e-2"], []]);

const one = await colloquy.GET("/v1/sessions/{sessionId}/events/{eventId}", {
  params: { path: { sessionId, eventId: "e-1" } },
});
assert.deepEqual(one.data, appended.data);

const completed = await colloquy.POST("/v1/sessions/{sessionId}/complete", {
  params: { path },
  body: { status: "completed" },
});
assert(completed.data);
assert.equal(completed.data.status, "completed");
assert(completed.data.endedAt);

const late = await colloquy.POST("/v1/sessions/{sessionId}/events", { params: { path }, body: { ...question, eventId: "e-3" } });
assert.equal(late.response.status, 409);
assert(late.error);
assert.equal(late.error.code, "session-ended");
// @ts-expect-error There is no such code, and the compiler knows.
assert(late.error.code !== "session-over");

const erased = await colloquy.DELETE("/v1/sessions/{sessionId}", { params: { path } });
assert.equal(erased.response.status, 204);

console.log("typescript: opened, appended, replayed, read, completed, refused, erased");
