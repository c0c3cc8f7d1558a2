// Go's libraries take Google's addresses only. Their transport, which is public, leads the calls to the stand-in.
package main

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"strings"

	"golang.org/x/oauth2"
)

var env = os.Getenv

type elsewhere struct{}

func (elsewhere) RoundTrip(request *http.Request) (*http.Response, error) {
	leads := map[string]string{
		"oauth2.googleapis.com":         env("OAUTH_URL"),
		"sts.googleapis.com":            env("STS_URL"),
		"iamcredentials.googleapis.com": env("IAM_URL"),
		// Of the machine's: the stand-in of AWS's metadata service is beside STS.
		"169.254.169.254": env("STS_URL"),
	}
	if lead, ok := leads[request.URL.Host]; ok {
		to, err := url.Parse(lead)
		if err != nil {
			return nil, err
		}
		request = request.Clone(request.Context())
		request.URL.Scheme, request.URL.Host, request.Host = to.Scheme, to.Host, to.Host
	}
	return http.DefaultTransport.RoundTrip(request)
}

// withGoogles writes Google's addresses for those of the stand-in.
func withGoogles(text string) string {
	return strings.NewReplacer(
		env("STS_URL"), "https://sts.googleapis.com/v1/token",
		strings.TrimSuffix(env("STS_URL"), "/v1/token"), "http://169.254.169.254",
		env("IAM_URL"), "https://iamcredentials.googleapis.com",
	).Replace(text)
}

func leading() context.Context {
	return context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Transport: elsewhere{}})
}
