// Go's own reverse proxy with a cached ID token: what one would write instead of deploying a sidecar.
//
// Built and run by benchmarks/products.py. It is as lean as net/http lets it be: no log, no retries, pooled buffers. It
// needs nothing but the standard library.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// early is how long before its end a token is replaced: google-auth's threshold.
const early = 225 * time.Second

type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if found, ok := b.pool.Get().(*[]byte); ok {
		return *found
	}
	return make([]byte, 32*1024)
}

func (b *buffers) Put(used []byte) { b.pool.Put(&used) }

// fetch asks the metadata server, and says until when the token is good.
func fetch(metadata, audience string) (string, time.Time, error) {
	address := "http://" + metadata + "/computeMetadata/v1/instance/service-accounts/default/identity?" +
		url.Values{"audience": {audience}, "format": {"full"}}.Encode()
	request, err := http.NewRequest("GET", address, nil)
	if err != nil {
		return "", time.Time{}, err
	}
	request.Header.Set("Metadata-Flavor", "Google")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", time.Time{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 64*1024))
	if err != nil {
		return "", time.Time{}, err
	}
	parts := strings.Split(strings.TrimSpace(string(body)), ".")
	if response.StatusCode != 200 || len(parts) != 3 {
		return "", time.Time{}, errors.New("no token: " + response.Status)
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", time.Time{}, err
	}
	var claims struct{ Exp int64 }
	if err := json.Unmarshal(payload, &claims); err != nil {
		return "", time.Time{}, err
	}
	return "Bearer " + strings.Join(parts, "."), time.Unix(claims.Exp, 0), nil
}

func main() {
	listen := flag.String("listen", "", "host:port")
	upstream := flag.String("upstream", "", "URL")
	audience := flag.String("audience", "", "of the token")
	metadata := flag.String("metadata", "", "host:port")
	ca := flag.String("ca", "", "PEM file, for an https upstream")
	http2 := flag.Bool("http2", false, "HTTP/2 to the upstream")
	logged := flag.Bool("log", false, "a line on standard error for each request")
	cert := flag.String("cert", "", "PEM file, to serve TLS")
	key := flag.String("key", "", "PEM file of its key")
	flag.Parse()
	target, err := url.Parse(*upstream)
	if err != nil {
		log.Fatal(err)
	}

	var token atomic.Pointer[string]
	value, until, err := fetch(*metadata, *audience)
	if err != nil {
		log.Fatal(err)
	}
	token.Store(&value)
	go func() {
		for {
			time.Sleep(max(time.Until(until.Add(-early)), time.Second))
			if fresh, end, err := fetch(*metadata, *audience); err == nil {
				token.Store(&fresh)
				until = end
			}
		}
	}()

	transport := &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024, DisableCompression: true}
	if *ca != "" {
		pem, err := os.ReadFile(*ca)
		if err != nil {
			log.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP1(!*http2)
	transport.Protocols.SetHTTP2(*http2)
	transport.Protocols.SetUnencryptedHTTP2(*http2)

	proxy := &httputil.ReverseProxy{
		Rewrite: func(request *httputil.ProxyRequest) {
			request.SetURL(target)
			request.Out.Header["Authorization"] = []string{*token.Load()}
		},
		Transport:  transport,
		BufferPool: &buffers{},
		// A stream's messages go on at once, as in the others.
		FlushInterval: -1,
	}
	server := &http.Server{Addr: *listen, Handler: proxy, Protocols: new(http.Protocols)}
	if *logged {
		proxy.ModifyResponse = func(answer *http.Response) error {
			log.Print(answer.Request.Method, " ", answer.Request.URL.Path, " ", answer.StatusCode, " ", answer.ContentLength)
			return nil
		}
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	if *cert != "" {
		log.Fatal(server.ListenAndServeTLS(*cert, *key))
	}
	log.Fatal(server.ListenAndServe())
}
