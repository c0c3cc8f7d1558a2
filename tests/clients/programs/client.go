// Go's net/http: one task after the other.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sync"
)

var base, host, proxy = os.Getenv("BASE"), os.Getenv("HOST"), os.Getenv("PROXY")
var client = &http.Client{Transport: &http.Transport{Proxy: func(*http.Request) (*url.URL, error) {
	if proxy == "" {
		return nil, nil
	}
	return url.Parse(proxy)
}}}

func ask(method, path string, body io.Reader) ([]byte, error) {
	request, err := http.NewRequest(method, base+path, body)
	if err != nil {
		return nil, err
	}
	if host != "" {
		request.Host = host
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != 200 {
		err = fmt.Errorf("%d %s", answer.StatusCode, data)
	}
	return data, err
}

func raw(data []byte, err error) (interface{}, error) { return json.RawMessage(data), err }

func main() {
	body := bytes.Repeat(func() []byte {
		piece := make([]byte, 250)
		for n := range piece {
			piece[n] = byte(n)
		}
		return piece
	}(), 80000)
	tasks := []struct {
		name string
		run  func() (interface{}, error)
	}{
		{"up", func() (interface{}, error) { return raw(ask("POST", "/up", bytes.NewReader(body))) }},
		{"down", func() (interface{}, error) {
			data, err := ask("GET", fmt.Sprintf("/bytes/%d", len(body)), nil)
			sum := sha256.Sum256(data)
			return hex.EncodeToString(sum[:]), err
		}},
		{"chunked", func() (interface{}, error) {
			return raw(ask("POST", "/x", io.MultiReader(bytes.NewReader([]byte("ab")), bytes.NewReader([]byte("c")))))
		}},
		{"gzip", func() (interface{}, error) { data, err := ask("GET", "/gzip", nil); return string(data), err }},
		{"sse", func() (interface{}, error) {
			data, err := ask("GET", "/sse?n=3&every=0.01", nil)
			return string(data), err
		}},
		{"parallel", func() (interface{}, error) {
			found := make([]json.RawMessage, 50)
			var first error
			var wait sync.WaitGroup
			for n := range found {
				wait.Add(1)
				go func(n int) {
					defer wait.Done()
					data, err := ask("GET", fmt.Sprintf("/n%d", n), nil)
					if err != nil {
						first = err
					}
					found[n] = data
				}(n)
			}
			wait.Wait()
			return found, first
		}},
		{"utf8", func() (interface{}, error) { return raw(ask("GET", "/grüße?x=ü", nil)) }},
	}
	for _, task := range tasks {
		found, err := task.run()
		line := map[string]interface{}{"way": task.name, "found": found}
		if err != nil {
			line = map[string]interface{}{"way": task.name, "error": err.Error()}
		}
		json.NewEncoder(os.Stdout).Encode(line)
	}
}
