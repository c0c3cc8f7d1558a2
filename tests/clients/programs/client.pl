# Perl's HTTP::Tiny: one task after the other.
use strict;
use warnings;
use utf8;
use Digest::SHA qw(sha256_hex);
use Encode qw(encode_utf8);
use HTTP::Tiny;
use JSON::PP;

my ($base, $host, $proxy) = @ENV{qw(BASE HOST PROXY)};
my $body = join('', map { chr } 0 .. 249) x 80_000;
delete @ENV{qw(http_proxy HTTP_PROXY all_proxy)};
my $client = HTTP::Tiny->new($proxy ? (http_proxy => $proxy) : ());

sub ask {
    my ($method, $path, %options) = @_;
    my $answer = $client->request($method, $base . encode_utf8($path), \%options);
    die "$answer->{status} $answer->{content}" unless $answer->{success};
    return $answer->{content};
}
my @pieces = ('ab', 'c');
my @tasks = (
    up => sub { decode_json(ask('POST', '/up', content => $body)) },
    down => sub { sha256_hex(ask('GET', '/bytes/' . length $body)) },
    chunked => sub { decode_json(ask('POST', '/x', content => sub { shift @pieces })) },
    sse => sub { ask('GET', '/sse?n=3&every=0.01') },
    utf8 => sub { decode_json(ask('GET', '/grüße?x=ü')) },
);
$| = 1;
while (my ($way, $work) = splice @tasks, 0, 2) {
    my $found = eval { {found => $work->()} } || {error => "$@"};
    print encode_json({way => $way, %$found}), "\n";
}
