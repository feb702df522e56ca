// This program asks the server at its first argument, with OpenAI's Go client as it was
// before v3.43.0, and writes the words of the stream as they come, and behind an empty line
// what tool it calls with what. It tells an error as the client has it, and then ends with
// status 1.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/shared"
)

func main() {
	if err := ask(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprint(os.Stderr, err)
		os.Exit(1)
	}
}

func ask(base, model, question string) error {
	client := openai.NewClient(
		option.WithBaseURL(base+"/v1/"), option.WithAPIKey("any"), option.WithMaxRetries(0))
	var tools []openai.ChatCompletionToolUnionParam
	if len(os.Args) > 4 { // the parameters of one, as JSON
		var parameters map[string]any
		if err := json.Unmarshal([]byte(os.Args[4]), &parameters); err != nil {
			return err
		}
		tools = append(tools, openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{Name: "write_file", Parameters: parameters}))
	}
	stream := client.Chat.Completions.NewStreaming(context.Background(), openai.ChatCompletionNewParams{
		Model:    model,
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(question)},
		Tools:    tools,
	})
	defer stream.Close()
	var whole openai.ChatCompletionAccumulator
	for stream.Next() {
		if !whole.AddChunk(stream.Current()) {
			return fmt.Errorf("a chunk does not belong to the others: %s", stream.Current().RawJSON())
		}
		for _, choice := range stream.Current().Choices {
			fmt.Print(choice.Delta.Content)
		}
	}
	for _, choice := range whole.Choices {
		for _, call := range choice.Message.ToolCalls {
			fmt.Printf("\n\n%s %s", call.Function.Name, call.Function.Arguments)
		}
	}
	return stream.Err()
}
