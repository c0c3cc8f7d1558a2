// What stands around a product where Python would be too slow to stand there: an upstream, a metadata server, and loads.
//
//	peer upstream -listen HOST:PORT                       1 kB, any length, uploads, events, WebSocket echo
//	peer metadata -listen HOST:PORT -life -left -due S    tokens that all end at the same moment
//	peer open     -to HOST:PORT -rate N -seconds S        GETs at a fixed rate, whatever comes back: latencies
//	peer events   -to HOST:PORT -connections N -seconds S streams of events, which are counted
//	peer echo     -to HOST:PORT -connections N -count M   WebSocket messages, there and back
//
// Built and run by benchmarks/peer.py. It needs nothing but the standard library. A load prints `ready` once every
// connection has had its first answer, and one line of JSON at its end; a wrong answer ends it with code 1 and says why.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"time"
)

// options are the flags of all commands; each takes what it needs.
type options struct {
	listen, to, host               string
	connections, count, length     int
	rate, seconds, life, left, due float64
}

func main() {
	log.SetFlags(0)
	commands := map[string]func(options) error{
		"upstream": upstream, "metadata": metadata, "open": open, "events": events, "echo": echo,
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		log.Fatal("peer: upstream, metadata, open, events or echo?")
	}
	var given options
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	flags.StringVar(&given.listen, "listen", "", "host:port")
	flags.StringVar(&given.to, "to", "", "host:port of the product")
	flags.StringVar(&given.host, "host", "", "the Host that is sent")
	flags.IntVar(&given.connections, "connections", 64, "how many")
	flags.IntVar(&given.count, "count", 1000, "messages in all")
	flags.IntVar(&given.length, "length", 1024, "bytes that each answer must have")
	flags.Float64Var(&given.life, "life", 3600, "seconds that a token lives in all")
	flags.Float64Var(&given.left, "left", 3600, "seconds that it has left when it is given out first")
	flags.Float64Var(&given.due, "due", 3300, "seconds after which it will be renewed")
	flags.Float64Var(&given.rate, "rate", 1000, "requests a second")
	flags.Float64Var(&given.seconds, "seconds", 1, "how long")
	flags.Parse(os.Args[2:])
	if err := commands[os.Args[1]](given); err != nil {
		log.Fatal(err)
	}
}

// ready says that counting may begin.
func ready() { fmt.Println("ready") }

// result prints what was counted.
func result(found map[string]float64) error { return json.NewEncoder(os.Stdout).Encode(found) }

// seconds as a duration.
func seconds(count float64) time.Duration { return time.Duration(count * float64(time.Second)) }
