// google-auth-library for Java, as Debian has it.
import com.google.api.client.http.javanet.NetHttpTransport;
import com.google.auth.ServiceAccountSigner;
import com.google.auth.http.HttpTransportFactory;
import com.google.auth.oauth2.AccessToken;
import com.google.auth.oauth2.ComputeEngineCredentials;
import com.google.auth.oauth2.GoogleCredentials;
import com.google.auth.oauth2.IdTokenCredentials;
import com.google.auth.oauth2.IdTokenProvider;
import com.google.auth.oauth2.ImpersonatedCredentials;
import com.google.auth.oauth2.ServiceAccountCredentials;
import com.google.auth.oauth2.UserCredentials;
import com.google.gson.Gson;
import com.google.gson.JsonObject;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileReader;
import java.io.IOException;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.URL;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

public class Auth {
  // Its address of the IAM Credentials API is fixed: the transport, which is the caller's, leads these calls elsewhere.
  static final HttpTransportFactory ELSEWHERE =
      () ->
          new NetHttpTransport.Builder()
              .setConnectionFactory(
                  url ->
                      (HttpURLConnection)
                          new URL(url.toString().replace("https://iamcredentials.googleapis.com", env("IAM_URL")))
                              .openConnection())
              .build();

  static String env(String name) {
    return System.getenv(name);
  }

  static Map<String, Object> found(String name, Object value) {
    Map<String, Object> made = new HashMap<>();
    made.put(name, value);
    return made;
  }

  static String access(GoogleCredentials credentials) throws Exception {
    return credentials.createScoped(Arrays.asList(env("SCOPE"))).refreshAccessToken().getTokenValue();
  }

  static String idToken(GoogleCredentials credentials) throws Exception {
    IdTokenCredentials made =
        IdTokenCredentials.newBuilder()
            .setIdTokenProvider((IdTokenProvider) credentials)
            .setTargetAudience(env("AUDIENCE"))
            .setOptions(Arrays.asList(IdTokenProvider.Option.FORMAT_FULL, IdTokenProvider.Option.INCLUDE_EMAIL))
            .build();
    made.refresh();
    return made.getIdToken().getTokenValue();
  }

  static GoogleCredentials key() throws Exception {
    return GoogleCredentials.fromStream(new FileInputStream(env("KEY_FILE"))).createScoped(Arrays.asList(env("SCOPE")));
  }

  static Map<String, Object> fromFile(String file) throws Exception {
    try {
      return found("access_token", access(GoogleCredentials.fromStream(new FileInputStream(file))));
    } catch (IOException error) {
      if (error.getMessage() == null || !error.getMessage().contains("not recognized")) throw error;
      return found("absent", "not in " + version());
    }
  }

  // The jar says it only by the name beside its own.
  static String version() throws Exception {
    URI jar = GoogleCredentials.class.getProtectionDomain().getCodeSource().getLocation().toURI();
    Pattern named = Pattern.compile("google-auth-library-oauth2-http-([0-9.]+)\\.jar");
    for (String name : new File(jar).getParentFile().list()) {
      Matcher matcher = named.matcher(name);
      if (matcher.matches()) return matcher.group(1);
    }
    return "Debian's";
  }

  static GoogleCredentials impersonated() throws Exception {
    return ImpersonatedCredentials.create(
        key(), env("TARGET"), null, Arrays.asList(env("SCOPE")), 600, ELSEWHERE);
  }

  static Map<String, Object> signed(Object credentials) throws Exception {
    byte[] signature = ((ServiceAccountSigner) credentials).sign(env("TO_SIGN").getBytes("UTF-8"));
    return found("signature", Base64.getEncoder().encodeToString(signature));
  }

  static Map<String, Object> run(String way) throws Exception {
    switch (way) {
      case "metadata_access":
        return found("access_token", access(GoogleCredentials.getApplicationDefault()));
      case "metadata_id":
        return found("id_token", idToken(ComputeEngineCredentials.create()));
      case "metadata_tree":
        return found("said", ComputeEngineCredentials.create().getAccount());
      case "key_access":
        return found("access_token", access(key()));
      case "key_id":
        return found("id_token", idToken(ServiceAccountCredentials.fromStream(new FileInputStream(env("KEY_FILE")))));
      case "key_sign":
        return signed(key());
      case "metadata_sign":
        return signed(ComputeEngineCredentials.newBuilder().setHttpTransportFactory(ELSEWHERE).build());
      case "impersonated_access":
        return found("access_token", access(impersonated()));
      case "impersonated_id":
        return found("id_token", idToken(impersonated()));
      case "impersonated_sign":
        return signed(impersonated());
      case "impersonated_file":
        return fromFile(env("IMPERSONATED_FILE"));
      case "federation":
        return fromFile(env("FEDERATION_URL_FILE"));
      case "login":
        JsonObject info = new Gson().fromJson(new FileReader(env("LOGIN_FILE")), JsonObject.class);
        UserCredentials user =
            UserCredentials.newBuilder()
                .setClientId(info.get("client_id").getAsString())
                .setClientSecret(info.get("client_secret").getAsString())
                .setRefreshToken(info.get("refresh_token").getAsString())
                .setTokenServerUri(URI.create(env("OAUTH_URL")))
                .build();
        AccessToken token = user.refreshAccessToken();
        return found("access_token", token.getTokenValue());
      default:
        throw new IllegalArgumentException(way);
    }
  }

  public static void main(String[] ways) {
    for (String way : ways) {
      Map<String, Object> answer;
      try {
        answer = run(way);
      } catch (Exception error) {
        answer = found("error", error.toString());
      }
      answer.put("way", way);
      System.out.println(new Gson().toJson(answer));
    }
  }
}
