"""openai for JavaScript and @langchain/openai, run by node. The guide's own scripts run in test_guide.py."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from client_texts import LINES, TEXTS
from live_server import Server

pytestmark = [pytest.mark.slow, pytest.mark.clients]

OPENAI = """
import OpenAI from "openai";
const { url, name, texts } = JSON.parse(process.argv[2]);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const vectors = {};
for (const [key, format] of Object.entries({ "default": {}, "float": { encoding_format: "float" } })) {
  const answer = await client.embeddings.create({ model: name, input: texts, ...format });
  vectors[key] = answer.data.map((item) => [...item.embedding]);
}
const coded = await client.embeddings.create({ model: name, input: texts, encoding_format: "base64" });
vectors.base64 = coded.data.map((item) => {
  const bytes = Buffer.from(item.embedding, "base64");
  return [...new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length))];
});
const many = Array.from({ length: 2048 }, (_, number) => `text number ${number}`);
const large = await client.embeddings.create({ model: name, input: many });
let error = {};
try { await client.embeddings.create({ model: name, input: ["a", ""] }); }
catch (caught) { error = { kind: caught.constructor.name, status: caught.status, message: caught.message }; }
const edges = [0, 1023, 2047].map((number) => [...large.data[number].embedding]);
console.log(JSON.stringify({ vectors, edges, count: large.data.length, error }));
"""

LANGCHAIN = """
import { OpenAIEmbeddings } from "@langchain/openai";
const { url, name, texts } = JSON.parse(process.argv[2]);
const options = { apiKey: "none", model: name, configuration: { baseURL: `${url}/v1` }, maxRetries: 0 };
const embeddings = new OpenAIEmbeddings({ ...options, batchSize: 3 });
const decoded = new OpenAIEmbeddings({ ...options, encodingFormat: "float" });
console.log(JSON.stringify({
  documents: await embeddings.embedDocuments(texts),
  floats: await decoded.embedDocuments(texts),
  query: await embeddings.embedQuery(texts[0]),
}));
"""


def run_node(folder: Path, script: str, **arguments: Any) -> dict[str, Any]:
    (folder / "script.mjs").write_text(script, "utf-8")
    command = ["node", str(folder / "script.mjs"), json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_openai(server: Server, node_folder: Path) -> None:
    """Vectors have all their dimensions, and are not zeros: the client decodes base64 without a look."""
    printed = run_node(node_folder, OPENAI, url=server.url, name=server.name, texts=TEXTS)
    assert [*printed["vectors"]] == ["default", "float", "base64"]
    for vectors in printed["vectors"].values():
        assert {len(vector) for vector in vectors} == {server.encoder.dim}
        server.assert_plain(vectors, TEXTS)
    assert printed["count"] == 2048
    server.assert_plain(printed["edges"], [f"text number {number}" for number in (0, 1023, 2047)])
    assert (printed["error"]["kind"], printed["error"]["status"]) == ("BadRequestError", 400)
    assert "input[1]" in printed["error"]["message"]


def test_langchain(server: Server, node_folder: Path) -> None:
    """It replaces line ends by blanks."""
    texts = [*TEXTS, *LINES]
    printed = run_node(node_folder, LANGCHAIN, url=server.url, name=server.name, texts=texts)
    sent = [text.replace("\n", " ") for text in texts]
    server.assert_plain(printed["documents"], sent)
    server.assert_plain(printed["floats"], sent)
    server.assert_plain([printed["query"]], sent[:1])
