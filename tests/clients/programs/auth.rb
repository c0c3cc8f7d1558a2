# Ruby's googleauth, as Debian has it.
require "googleauth"
require "json"

def key(**options)
  made = Google::Auth::ServiceAccountCredentials.make_creds(json_key_io: File.open(ENV["KEY_FILE"]), **options)
  # Its address of Google's is fixed; what its assertions are for stays so.
  made.token_credential_uri = ENV["OAUTH_URL"].sub(%r{/token$}, "/oauth2/v4/token")
  made
end

def version
  Gem::Specification.find_by_name("googleauth").version
end

def from_file(name)
  made = Google::Auth::DefaultCredentials.make_creds(json_key_io: File.open(ENV[name]), scope: ENV["SCOPE"])
  { access_token: made.fetch_access_token!["access_token"] }
rescue RuntimeError => e
  raise unless e.message.include?("is not supported")

  { absent: "not in #{version}" }
end

WAYS = {
  "metadata_access" => lambda {
    made = Google::Auth::GCECredentials.new
    raise "no metadata server is found" unless Google::Auth::GCECredentials.on_gce?
    { access_token: made.fetch_access_token!["access_token"] }
  },
  "metadata_id" => lambda {
    made = Google::Auth::GCECredentials.new(target_audience: ENV["AUDIENCE"])
    { id_token: made.fetch_access_token!["id_token"] }
  },
  "key_access" => -> { { access_token: key(scope: ENV["SCOPE"]).fetch_access_token!["access_token"] } },
  "key_id" => -> { { id_token: key(target_audience: ENV["AUDIENCE"]).fetch_access_token!["id_token"] } },
  "self_signed" => lambda {
    made = Google::Auth::ServiceAccountJwtHeaderCredentials.make_creds(json_key_io: File.open(ENV["KEY_FILE"]))
    headers = made.apply({ jwt_aud_uri: ENV["API_AUDIENCE"] })
    { self_signed: (headers[:authorization] || headers["authorization"]).split(" ")[1] }
  },
  "impersonated_access" => lambda {
    unless defined?(Google::Auth::ImpersonatedServiceAccountCredentials)
      next { absent: "not in #{version}" }
    end
    url = "#{ENV['IAM_URL']}/v1/projects/-/serviceAccounts/#{ENV['TARGET']}:generateAccessToken"
    made = Google::Auth::ImpersonatedServiceAccountCredentials.make_creds(
      base_credentials: key(scope: ENV["SCOPE"]), impersonation_url: url, scope: [ENV["SCOPE"]]
    )
    { access_token: made.apply({})[:authorization].split(" ")[1] }
  },
  "impersonated_file" => -> { from_file("IMPERSONATED_FILE") },
  "federation" => -> { from_file("FEDERATION_URL_FILE") },
  "login" => lambda {
    made = Google::Auth::UserRefreshCredentials.make_creds(json_key_io: File.open(ENV["LOGIN_FILE"]), scope: ENV["SCOPE"])
    made.token_credential_uri = ENV["OAUTH_URL"]
    { access_token: made.fetch_access_token!["access_token"] }
  }
}.freeze

ARGV.each do |way|
  found = begin
    WAYS.fetch(way).call
  rescue StandardError => e
    { error: "#{e.class}: #{e.message}" }
  end
  puts JSON.generate({ way: way, **found })
  $stdout.flush
end
