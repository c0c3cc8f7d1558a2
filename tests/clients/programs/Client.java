// Java's own HttpClient: one task after the other.
import java.net.InetSocketAddress;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;

public class Client {
  static final String BASE = System.getenv("BASE"), HOST = System.getenv("HOST"), PROXY = System.getenv("PROXY");
  static final byte[] BODY = new byte[20_000_000];
  static final HttpClient CLIENT = client();

  static HttpClient client() {
    HttpClient.Builder builder = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1);
    if (!PROXY.isEmpty()) {
      URI proxy = URI.create(PROXY);
      builder.proxy(ProxySelector.of(new InetSocketAddress(proxy.getHost(), proxy.getPort())));
    }
    return builder.build();
  }

  static HttpRequest.Builder request(String path) {
    // Through a proxy it would write what is not ASCII as question marks.
    URI uri = URI.create(URI.create(BASE + path).toASCIIString());
    HttpRequest.Builder builder = HttpRequest.newBuilder(uri);
    return HOST.isEmpty() ? builder : builder.header("Host", HOST);
  }

  static byte[] ask(HttpRequest.Builder builder) throws Exception {
    var answer = CLIENT.send(builder.build(), BodyHandlers.ofByteArray());
    if (answer.statusCode() != 200) throw new Exception(answer.statusCode() + " " + new String(answer.body()));
    return answer.body();
  }

  static String sha256(byte[] data) throws Exception {
    StringBuilder text = new StringBuilder();
    for (byte piece : MessageDigest.getInstance("SHA-256").digest(data)) text.append(String.format("%02x", piece));
    return text.toString();
  }

  static String quoted(String text) {
    return "\"" + text.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n") + "\"";
  }

  static String socket() throws Exception {
    List<String> found = new ArrayList<>();
    CompletableFuture<String> ended = new CompletableFuture<>();
    WebSocket.Listener listener = new WebSocket.Listener() {
      final java.io.ByteArrayOutputStream data = new java.io.ByteArrayOutputStream();
      public CompletionStage<?> onText(WebSocket it, CharSequence text, boolean last) {
        found.add(quoted(text.toString()));
        it.request(1);
        it.sendBinary(ByteBuffer.wrap(BODY, 0, 300_000), true);
        return null;
      }
      public CompletionStage<?> onBinary(WebSocket it, ByteBuffer piece, boolean last) {
        byte[] read = new byte[piece.remaining()];
        piece.get(read);
        data.writeBytes(read);
        it.request(1);
        try {
          if (last) ended.complete("[" + found.get(0) + "," + quoted(sha256(data.toByteArray())) + "]");
        } catch (Exception error) {
          ended.completeExceptionally(error);
        }
        return null;
      }
      public void onError(WebSocket it, Throwable error) {
        ended.completeExceptionally(error);
      }
    };
    WebSocket it = CLIENT.newWebSocketBuilder().buildAsync(URI.create(BASE.replace("http", "ws") + "/ws"), listener).get();
    it.sendText("grüße", true);
    return ended.get(60, TimeUnit.SECONDS);
  }

  public static void main(String[] ignored) throws Exception {
    for (int n = 0; n < BODY.length; n++) BODY[n] = (byte) (n % 250);
    Map<String, Callable<String>> tasks = new LinkedHashMap<>();
    tasks.put("up", () -> new String(ask(request("/up").POST(BodyPublishers.ofByteArray(BODY)))));
    tasks.put("down", () -> quoted(sha256(ask(request("/bytes/" + BODY.length)))));
    tasks.put("chunked", () -> new String(ask(request("/x").POST(BodyPublishers.ofByteArrays(
        Arrays.asList("ab".getBytes(), "c".getBytes()))))));
    tasks.put("sse", () -> quoted(new String(ask(request("/sse?n=3&every=0.01")))));
    tasks.put("parallel", () -> {
      List<CompletableFuture<String>> all = new ArrayList<>();
      for (int n = 0; n < 50; n++) {
        all.add(CLIENT.sendAsync(request("/n" + n).build(), BodyHandlers.ofString()).thenApply(a -> a.body()));
      }
      List<String> found = new ArrayList<>();
      for (CompletableFuture<String> one : all) found.add(one.get());
      return "[" + String.join(",", found) + "]";
    });
    tasks.put("utf8", () -> new String(ask(request("/grüße?x=ü"))));
    if (HOST.isEmpty() && PROXY.isEmpty()) tasks.put("websocket", Client::socket);
    for (Map.Entry<String, Callable<String>> task : tasks.entrySet()) {
      String found;
      try {
        found = "\"found\":" + task.getValue().call();
      } catch (Exception error) {
        found = "\"error\":" + quoted(error.toString());
      }
      System.out.println("{\"way\":" + quoted(task.getKey()) + "," + found + "}");
    }
    System.exit(0);
  }
}
