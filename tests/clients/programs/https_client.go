// One https URL, asked for as anybody's code does it.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

func main() {
	answer, err := http.Get(os.Getenv("URL"))
	if err != nil {
		fmt.Printf("{\"client\": \"go\", \"verified\": false, \"error\": %q}\n", err.Error())
		return
	}
	body, _ := io.ReadAll(answer.Body)
	fmt.Println(strings.Replace(string(body), "{", "{\"client\": \"go\", ", 1))
}
