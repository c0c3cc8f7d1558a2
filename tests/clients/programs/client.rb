# Ruby's Net::HTTP: one task after the other.
require "digest"
require "json"
require "net/http"
require "stringio"
require "uri"

BASE, HOST, VIA = ENV.values_at("BASE", "HOST", "PROXY")
BODY = (0...250).to_a.pack("C*") * 80_000

def ask(kind, path, body: nil, stream: nil)
  uri = URI.parse(URI::DEFAULT_PARSER.escape("#{BASE}#{path}"))
  via = VIA.empty? ? [nil] : URI.parse(VIA).then { |found| [found.host, found.port] }
  Net::HTTP.start(uri.host, uri.port, *via) do |http|
    request = kind.new(uri.request_uri)
    request["Host"] = HOST.empty? ? "#{uri.host}#{":#{uri.port}" unless uri.port == 80}" : HOST
    request.body = body if body
    if stream
      request.body_stream = StringIO.new(stream)
      request["Transfer-Encoding"] = "chunked"
    end
    answer = http.request(request)
    raise "#{answer.code} #{answer.body}" unless answer.code == "200"
    answer.body
  end
end

get = ->(path) { ask(Net::HTTP::Get, path) }
{
  "up" => -> { JSON.parse(ask(Net::HTTP::Post, "/up", body: BODY)) },
  "down" => -> { Digest::SHA256.hexdigest(get.call("/bytes/#{BODY.bytesize}")) },
  "chunked" => -> { JSON.parse(ask(Net::HTTP::Post, "/x", stream: "abc")) },
  "gzip" => -> { get.call("/gzip") },
  "sse" => -> { get.call("/sse?n=3&every=0.01") },
  "parallel" => -> { (0...50).map { |n| Thread.new { JSON.parse(get.call("/n#{n}")) } }.map(&:value) },
  "utf8" => -> { JSON.parse(get.call("/grüße?x=ü")) }
}.each do |way, work|
  found = begin
    { found: work.call }
  rescue StandardError => e
    { error: "#{e.class}: #{e.message}" }
  end
  puts JSON.generate({ way: way, **found })
  $stdout.flush
end
