package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// period is the time between two events of a stream: ten a second.
const period = 100 * time.Millisecond

var kilobyte = []byte(strings.Repeat("0123456789abcdef", 64))

// upstream serves until it is killed; without a bearer token it answers 403, so that nobody looks fast who sends none.
func upstream(given options) error {
	routes := http.NewServeMux()
	routes.HandleFunc("/authorization", func(answer http.ResponseWriter, request *http.Request) {
		io.WriteString(answer, request.Header.Get("Authorization"))
	})
	routes.HandleFunc("/bytes/", func(answer http.ResponseWriter, request *http.Request) {
		length, err := strconv.Atoi(strings.TrimPrefix(request.URL.Path, "/bytes/"))
		if err != nil {
			http.Error(answer, "no length", http.StatusBadRequest)
			return
		}
		answer.Header().Set("Content-Length", strconv.Itoa(length))
		answer.Write(make([]byte, length))
	})
	routes.HandleFunc("/count", count)
	routes.HandleFunc("/events", giveEvents)
	routes.HandleFunc("/echo", giveEcho)
	routes.HandleFunc("/", func(answer http.ResponseWriter, _ *http.Request) { answer.Write(kilobyte) })
	return http.ListenAndServe(given.listen, http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		if !strings.HasPrefix(request.Header.Get("Authorization"), "Bearer ") {
			http.Error(answer, "no bearer token", http.StatusForbidden)
			return
		}
		routes.ServeHTTP(answer, request)
	}))
}

// count answers how long the body was; 400 where it should have had another length.
func count(answer http.ResponseWriter, request *http.Request) {
	length, err := io.Copy(io.Discard, request.Body)
	if wanted := request.Header.Get("X-Length"); err != nil || wanted != "" && wanted != strconv.FormatInt(length, 10) {
		http.Error(answer, "wrong length", http.StatusBadRequest)
		return
	}
	fmt.Fprint(answer, length)
}

func giveEvents(answer http.ResponseWriter, request *http.Request) {
	answer.Header().Set("Content-Type", "text/event-stream")
	ticks := time.NewTicker(period)
	defer ticks.Stop()
	for {
		if _, err := io.WriteString(answer, event); err != nil {
			return
		}
		answer.(http.Flusher).Flush()
		select {
		case <-ticks.C:
		case <-request.Context().Done():
			return
		}
	}
}

func giveEcho(answer http.ResponseWriter, request *http.Request) {
	connection, buffered, err := answer.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer connection.Close()
	sum := sha1.Sum([]byte(request.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(connection, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	for {
		message, err := readFrame(buffered.Reader)
		if err != nil {
			return
		}
		if _, err := connection.Write(frame(message, false)); err != nil {
			return
		}
	}
}

// frame is one short binary message (RFC 6455, 5.2); a client's is masked, with zeros.
func frame(message []byte, masked bool) []byte {
	if masked {
		return append([]byte{0x82, 0x80 | byte(len(message)), 0, 0, 0, 0}, message...)
	}
	return append([]byte{0x82, byte(len(message))}, message...)
}

// readFrame reads one message of less than 126 bytes.
func readFrame(from *bufio.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(from, head[:]); err != nil {
		return nil, err
	}
	length, mask := int(head[1]&0x7f), [4]byte{}
	if head[0] != 0x82 || length > 125 {
		return nil, errors.New("not a short binary message")
	}
	if head[1]&0x80 != 0 {
		if err := binary.Read(from, binary.BigEndian, &mask); err != nil {
			return nil, err
		}
	}
	message := make([]byte, length)
	if _, err := io.ReadFull(from, message); err != nil {
		return nil, err
	}
	for at := range message {
		message[at] ^= mask[at%4]
	}
	return message, nil
}

// issuer gives out tokens that are `life - left` old already, as a metadata server does that keeps them; all that it
// gives until they are soon due end at the same moment.
type issuer struct {
	sync.Mutex
	life, left, due time.Duration
	began           time.Time
	fetches         int
}

// token is well-formed and as long as a real one; nobody verifies its signature here.
func (i *issuer) token(audience string) string {
	i.Lock()
	defer i.Unlock()
	i.fetches++
	if time.Since(i.began) > i.due*4/5 {
		i.began = time.Now().Truncate(time.Second)
	}
	end := i.began.Add(i.left)
	claims, _ := json.Marshal(map[string]any{
		"aud": audience, "azp": "100000000000000000000", "sub": "100000000000000000000",
		"email": "bench@example-project.iam.gserviceaccount.com", "email_verified": true,
		"iss": "https://accounts.google.com", "iat": end.Add(-i.life).Unix(), "exp": end.Unix(),
	})
	encode := base64.RawURLEncoding.EncodeToString
	head := `{"alg":"RS256","kid":"` + strings.Repeat("0", 40) + `","typ":"JWT"}`
	return encode([]byte(head)) + "." + encode(claims) + "." + encode(make([]byte, 256))
}

// metadata serves ID tokens like the metadata server until it is killed; /state says how many, and their age in seconds.
func metadata(given options) error {
	tokens := &issuer{life: seconds(given.life), left: seconds(given.left), due: seconds(given.due)}
	return http.ListenAndServe(given.listen, http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		answer.Header().Set("Metadata-Flavor", "Google")
		switch path := request.URL.Path; {
		case path == "/state":
			tokens.Lock()
			state := map[string]float64{"fetches": float64(tokens.fetches), "age": time.Since(tokens.began).Seconds()}
			tokens.Unlock()
			text, _ := json.Marshal(state)
			answer.Write(text)
		case strings.HasSuffix(path, "/identity"):
			io.WriteString(answer, tokens.token(request.URL.Query().Get("audience")))
		case strings.HasSuffix(path, "/email"):
			io.WriteString(answer, "bench@example-project.iam.gserviceaccount.com")
		case strings.HasSuffix(path, "/service-accounts/default/"):
			io.WriteString(answer, `{"aliases": ["default"], "email": "bench@example-project.iam.gserviceaccount.com", "scopes": []}`)
		case path == "/":
			io.WriteString(answer, "computeMetadata/\n")
		default:
			http.NotFound(answer, request)
		}
	}))
}
