// Calls of grpc.testing.TestService with @grpc/grpc-js: target and authority come in the environment, messages on stdin; one line of JSON goes out.
const grpc = require("@grpc/grpc-js");

const { TARGET, AUTHORITY } = process.env;
const messages = JSON.parse(require("fs").readFileSync(0), (_, value) => (typeof value === "string" ? Buffer.from(value, "base64") : value));
const same = (bytes) => bytes;
const method = (name, requestStream, responseStream) => ({
  path: `/grpc.testing.TestService/${name}`,
  requestStream,
  responseStream,
  requestSerialize: same,
  requestDeserialize: same,
  responseSerialize: same,
  responseDeserialize: same,
});
const Client = grpc.makeGenericClientConstructor(
  {
    UnaryCall: method("UnaryCall", false, false),
    StreamingInputCall: method("StreamingInputCall", true, false),
    StreamingOutputCall: method("StreamingOutputCall", false, true),
    FullDuplexCall: method("FullDuplexCall", true, true),
    UnimplementedCall: method("UnimplementedCall", false, false),
  },
  "TestService",
);
const client = new Client(TARGET, grpc.credentials.createInsecure(), {
  "grpc.default_authority": AUTHORITY,
  "grpc.enable_http_proxy": 0,
  "grpc.max_receive_message_length": -1,
});
const deadline = () => ({ deadline: Date.now() + 60000 });

const unary = (name, message, metadata = new grpc.Metadata()) =>
  new Promise((done) => {
    const seen = {};
    const call = client[name](message, metadata, deadline(), (error, answer) => {
      seen.code = error ? error.code : 0;
      seen.message = error ? error.details : "";
      seen.size = answer ? answer.length : -1;
    });
    call.on("metadata", (initial) => (seen.initial = initial.get("x-grpc-test-echo-initial")));
    call.on("status", (status) => {
      seen.trailing = status.metadata.get("x-grpc-test-echo-trailing-bin").map((value) => value.toString("hex"));
      setImmediate(() => done(seen));
    });
  });

const upload = () =>
  new Promise((done, fail) => {
    const call = client.StreamingInputCall(new grpc.Metadata(), deadline(), (error, answer) => (error ? fail(error) : done(answer.toString("base64"))));
    messages.upload.forEach((message) => call.write(message));
    call.end();
  });

const download = () =>
  new Promise((done, fail) => {
    const sizes = [];
    const call = client.StreamingOutputCall(messages.download, new grpc.Metadata(), deadline());
    call.on("data", (answer) => sizes.push(answer.length));
    call.on("error", fail);
    call.on("end", () => done(sizes));
  });

const pingPong = () =>
  new Promise((done, fail) => {
    const sizes = [];
    const call = client.FullDuplexCall(new grpc.Metadata(), deadline());
    call.on("data", (answer) => {
      sizes.push(answer.length);
      if (sizes.length < messages.duplex.length) call.write(messages.duplex[sizes.length]);
      else call.end();
    });
    call.on("error", fail);
    call.on("end", () => done(sizes));
    call.write(messages.duplex[0]);
  });

const code = (call) => new Promise((done) => call.on("error", (error) => done(error.code)).on("data", () => {}));

const late = () => {
  const call = client.FullDuplexCall(new grpc.Metadata(), { deadline: Date.now() + 300 });
  call.write(messages.slow);
  return code(call);
};

const cancelled = () => {
  const call = client.FullDuplexCall(new grpc.Metadata(), deadline());
  call.on("data", () => call.cancel());
  call.write(messages.duplex[0]);
  return code(call);
};

(async () => {
  const metadata = new grpc.Metadata();
  metadata.set("x-grpc-test-echo-initial", "value");
  metadata.set("x-grpc-test-echo-trailing-bin", Buffer.from("ababab", "hex"));
  const found = {
    unary: await unary("UnaryCall", messages.unary, metadata),
    status: await unary("UnaryCall", messages.status),
    unimplemented: await unary("UnimplementedCall", Buffer.alloc(0)),
    upload: await upload(),
    download: await download(),
    duplex: await pingPong(),
    late: await late(),
    cancelled: await cancelled(),
  };
  console.log(JSON.stringify(found));
  client.close();
})();
