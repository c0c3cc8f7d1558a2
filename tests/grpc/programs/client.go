// Calls of grpc.testing.TestService with google.golang.org/grpc: target and authority come in the environment, messages on stdin; one
// line of JSON goes out.
package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const service = "/grpc.testing.TestService/"

// raw leaves messages as they are.
type raw struct{}

func (raw) Marshal(v interface{}) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v interface{}) error {
	*v.(*[]byte) = append([]byte{}, data...)
	return nil
}
func (raw) Name() string { return "proto" }

type given struct {
	Unary, Status, Download, Slow []byte
	Upload, Duplex                [][]byte
}

type seen struct {
	Code     uint32   `json:"code"`
	Message  string   `json:"message"`
	Size     int      `json:"size"`
	Initial  []string `json:"initial"`
	Trailing []string `json:"trailing"`
}

var (
	conn     *grpc.ClientConn
	messages given
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func soon() context.Context {
	ctx, _ := context.WithTimeout(context.Background(), time.Minute) //nolint
	return ctx
}

func unary(ctx context.Context, name string, message []byte) seen {
	var initial, trailing metadata.MD
	var answer []byte
	err := conn.Invoke(ctx, service+name, &message, &answer, grpc.Header(&initial), grpc.Trailer(&trailing))
	found := seen{uint32(status.Code(err)), status.Convert(err).Message(), len(answer), []string{}, []string{}}
	if err != nil {
		found.Size = -1
	}
	found.Initial = append(found.Initial, initial["x-grpc-test-echo-initial"]...)
	for _, value := range trailing["x-grpc-test-echo-trailing-bin"] {
		found.Trailing = append(found.Trailing, hex.EncodeToString([]byte(value)))
	}
	return found
}

func stream(ctx context.Context, name string) grpc.ClientStream {
	desc := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	made, err := conn.NewStream(ctx, desc, service+name)
	must(err)
	return made
}

func receive(call grpc.ClientStream) ([]byte, error) {
	var answer []byte
	err := call.RecvMsg(&answer)
	return answer, err
}

func upload() string {
	call := stream(soon(), "StreamingInputCall")
	for i := range messages.Upload {
		must(call.SendMsg(&messages.Upload[i]))
	}
	must(call.CloseSend())
	answer, err := receive(call)
	must(err)
	return base64.StdEncoding.EncodeToString(answer)
}

func download() []int {
	call := stream(soon(), "StreamingOutputCall")
	must(call.SendMsg(&messages.Download))
	must(call.CloseSend())
	sizes := []int{}
	for {
		answer, err := receive(call)
		if err == io.EOF {
			return sizes
		}
		must(err)
		sizes = append(sizes, len(answer))
	}
}

func duplex() []int {
	call := stream(soon(), "FullDuplexCall")
	sizes := []int{}
	for i := range messages.Duplex {
		must(call.SendMsg(&messages.Duplex[i]))
		answer, err := receive(call)
		must(err)
		sizes = append(sizes, len(answer))
	}
	must(call.CloseSend())
	if _, err := receive(call); err != io.EOF {
		log.Fatal(err)
	}
	return sizes
}

func late() uint32 {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	call := stream(ctx, "FullDuplexCall")
	must(call.SendMsg(&messages.Slow))
	_, err := receive(call)
	return uint32(status.Code(err))
}

func cancelled() uint32 {
	ctx, cancel := context.WithCancel(context.Background())
	call := stream(ctx, "FullDuplexCall")
	must(call.SendMsg(&messages.Duplex[0]))
	_, err := receive(call)
	must(err)
	cancel()
	_, err = receive(call)
	return uint32(status.Code(err))
}

func main() {
	must(json.NewDecoder(os.Stdin).Decode(&messages))
	var err error
	conn, err = grpc.Dial(os.Getenv("TARGET"), grpc.WithInsecure(), grpc.WithAuthority(os.Getenv("AUTHORITY")),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(1<<30)))
	must(err)
	told := metadata.AppendToOutgoingContext(soon(), "x-grpc-test-echo-initial", "value",
		"x-grpc-test-echo-trailing-bin", "\xab\xab\xab")
	line, err := json.Marshal(map[string]interface{}{
		"unary":         unary(told, "UnaryCall", messages.Unary),
		"status":        unary(soon(), "UnaryCall", messages.Status),
		"unimplemented": unary(soon(), "UnimplementedCall", []byte{}),
		"upload":        upload(),
		"download":      download(),
		"duplex":        duplex(),
		"late":          late(),
		"cancelled":     cancelled(),
	})
	must(err)
	fmt.Println(string(line))
}
