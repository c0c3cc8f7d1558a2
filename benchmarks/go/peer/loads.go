package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const event = "data: 0123456789abcdef0123456789abcdef0123456789abcdef\n\n"

// connect opens all connections, sends each of them the same head, and waits for each head of an answer.
func connect(given options, head string, status int) ([]*conversation, error) {
	made := make([]*conversation, given.connections)
	for at := range made {
		connection, err := net.Dial("tcp", given.to)
		if err != nil {
			return nil, err
		}
		made[at] = &conversation{Conn: connection, reader: bufio.NewReader(connection)}
		if _, err := io.WriteString(connection, head); err != nil {
			return nil, err
		}
	}
	for at := range made {
		answer, err := http.ReadResponse(made[at].reader, nil)
		if err != nil {
			return nil, err
		}
		if answer.StatusCode != status {
			return nil, fmt.Errorf("answered %s", answer.Status)
		}
		made[at].body = answer.Body
	}
	return made, nil
}

type conversation struct {
	net.Conn
	reader *bufio.Reader
	body   io.Reader
}

// open sends at a fixed rate, and counts each latency from the moment at which the request was due: a product that
// stands still for a while makes all of those wait that were due meanwhile.
func open(given options) error {
	// One thread sleeps in the kernel most of the time; on a single core the others must not wait for its place.
	runtime.GOMAXPROCS(max(4, runtime.GOMAXPROCS(0)))
	head := fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\n\r\n", given.host)
	made, err := connect(given, head, http.StatusOK)
	if err != nil {
		return err
	}
	total := int(given.rate * given.seconds)
	due := make(chan time.Time, total)
	latencies := make([][]time.Duration, len(made))
	failed := make(chan error, len(made))
	var working sync.WaitGroup
	for at, each := range made {
		if _, err := io.Copy(io.Discard, each.body); err != nil {
			return err
		}
		working.Add(1)
		go func() {
			defer working.Done()
			for moment := range due {
				if err := each.ask(head, given.length); err != nil {
					failed <- err
					return
				}
				latencies[at] = append(latencies[at], time.Since(moment))
			}
		}()
	}
	ready()
	pace(due, total, given.rate)
	working.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return percentiles(latencies)
	}
}

// pace hands out the moments. The runtime's own timers are a millisecond coarse where nothing else happens.
func pace(due chan<- time.Time, total int, rate float64) {
	runtime.LockOSThread()
	began := time.Now()
	for sent := range total {
		moment := began.Add(seconds(float64(sent) / rate))
		if wait := time.Until(moment); wait > 0 {
			rest := syscall.NsecToTimespec(wait.Nanoseconds())
			syscall.Nanosleep(&rest, nil)
		}
		due <- moment
	}
	close(due)
}

// ask sends one request, and reads an answer whose body must have `length` bytes.
func (c *conversation) ask(head string, length int) error {
	if _, err := io.WriteString(c, head); err != nil {
		return err
	}
	status, err := c.reader.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200")) {
		return fmt.Errorf("answered %q", status)
	}
	promised := -1
	for {
		line, err := c.reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if len(line) > 15 && bytes.EqualFold(line[:15], []byte("content-length:")) {
			fmt.Sscan(string(line[15:]), &promised)
		}
	}
	if promised != length {
		return fmt.Errorf("a body of %d bytes, not of %d", promised, length)
	}
	_, err = c.reader.Discard(length)
	return err
}

func percentiles(latencies [][]time.Duration) error {
	var all []time.Duration
	for _, each := range latencies {
		all = append(all, each...)
	}
	if len(all) == 0 {
		return errors.New("no answers")
	}
	sort.Slice(all, func(a, b int) bool { return all[a] < all[b] })
	at := func(share float64) float64 {
		return all[min(len(all)-1, int(share*float64(len(all))))].Seconds()
	}
	return result(map[string]float64{"requests": float64(len(all)), "p50": at(.5), "p99": at(.99), "p999": at(.999)})
}

// events reads streams that all run already.
func events(given options) error {
	head := fmt.Sprintf("GET /events HTTP/1.1\r\nHost: %s\r\n\r\n", given.host)
	made, err := connect(given, head, http.StatusOK)
	if err != nil {
		return err
	}
	var seen atomic.Int64
	failed := make(chan error, len(made))
	for _, each := range made {
		go func() {
			lines := bufio.NewReader(each.body)
			for {
				line, err := lines.ReadString('\n')
				if err != nil || line != "\n" && line+"\n" != event {
					failed <- fmt.Errorf("a stream gave %q %v", line, err)
					return
				}
				if line == "\n" {
					seen.Add(1)
				}
			}
		}()
	}
	for seen.Load() < int64(2*len(made)) {
		time.Sleep(period)
	}
	ready()
	before := seen.Load()
	select {
	case err := <-failed:
		return err
	case <-time.After(seconds(given.seconds)):
		return result(map[string]float64{"events": float64(seen.Load() - before)})
	}
}

// echo sends messages one after the other on each connection.
func echo(given options) error {
	head := fmt.Sprintf("GET /echo HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n", given.host)
	made, err := connect(given, head, http.StatusSwitchingProtocols)
	if err != nil {
		return err
	}
	message := []byte(strings.Repeat("m", 64))
	failed := make(chan error, len(made))
	ready()
	for _, each := range made {
		go func() {
			for range given.count / given.connections {
				if _, err := each.Write(frame(message, true)); err != nil {
					failed <- err
					return
				}
				if back, err := readFrame(each.reader); err != nil || !bytes.Equal(back, message) {
					failed <- fmt.Errorf("the echo was %q %v", back, err)
					return
				}
			}
			failed <- nil
		}()
	}
	for range made {
		if err := <-failed; err != nil {
			return err
		}
	}
	return result(map[string]float64{"messages": float64(given.count / given.connections * given.connections)})
}
