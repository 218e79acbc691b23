// Lints an OpenAPI document with the rules of redocly.yaml: node lint-spec.mjs openapi.json
// This is Redocly's linter without its command line, which would bring a documentation site and React along;
// openapi-typescript needs the same library.

import { fileURLToPath } from "node:url";
import { resolve } from "node:path";
import openapi from "@redocly/openapi-core";

const config = await openapi.loadConfig({ configPath: fileURLToPath(new URL("redocly.yaml", import.meta.url)) });
const problems = await openapi.lint({ ref: resolve(process.argv[2]), config });
openapi.formatProblems(problems, { format: "stylish", totals: openapi.getTotals(problems), version: "" });
// A warning that nobody has to act on is soon read by nobody.
process.exitCode = problems.length > 0 ? 1 : 0;
