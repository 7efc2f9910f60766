// Answers each request over HTTP with "pong".
const http = require("http");

const server = http.createServer((request, response) => {
  response.setHeader("Content-Length", "5");
  response.end("pong\n");
});
server.keepAliveTimeout = 0;
server.listen(0, "127.0.0.1", () => console.log("ready " + server.address().port));
