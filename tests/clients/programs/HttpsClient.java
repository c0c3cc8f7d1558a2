// One https URL, asked for by both of the JDK's clients, as anybody's code does it.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;

public class HttpsClient {
    interface Ask { String now() throws Exception; }

    static void show(String name, Ask ask) {
        try {
            System.out.println(ask.now().replaceFirst("\\{", "{\"client\": \"" + name + "\", "));
        } catch (Exception error) {
            String words = String.valueOf(error).replace("\"", "'");
            System.out.println("{\"client\": \"" + name + "\", \"verified\": false, \"error\": \"" + words + "\"}");
        }
    }

    public static void main(String[] arguments) {
        URI url = URI.create(System.getenv("URL"));
        show("java-http-client", () -> HttpClient.newHttpClient()
            .send(HttpRequest.newBuilder(url).build(), HttpResponse.BodyHandlers.ofString()).body());
        show("java-url-connection", () -> new String(
            url.toURL().openConnection().getInputStream().readAllBytes(), StandardCharsets.UTF_8));
    }
}
